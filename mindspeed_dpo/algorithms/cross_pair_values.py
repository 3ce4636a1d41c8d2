"""Cross-pair values: what some losses need to know of the other pairs of an optimizer step, however it is split.

Most losses depend on one pair. Some sort all pairs (aot), average over all tokens (sft) or set beta per batch (β-DPO).
For these the values of all pairs of the step are gathered first, without gradient. From them follows what each pair is
compared with or scaled by, so that the loss is a value per pair again, which any micro-batch can compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses.aot import aot_partners, aot_unpaired_partners
from mindspeed_dpo.device.ops import total

PARTNERS = {"aot": aot_partners, "aot_unpaired": aot_unpaired_partners}


@dataclass(frozen=True)
class StepValues:
    """Values of all N pairs of an optimizer step, in the same order on every rank, without gradient.

    Example: a step of two pairs whose losses need no log-probabilities.

        StepValues(lengths=tensor([[10.0, 12.0], [7.0, 3.0]]))

    Attributes:
        lengths: [N, 2] float32 or float64, as the sums: response tokens.
        logps: [N, 2] float32 or float64 summed log-probabilities of the policy before the update, in nats; None where
            no loss needs them.
        ref_logps: [N, 2] float32 or float64, the same from the reference.
    """

    lengths: Tensor
    logps: Tensor | None = None
    ref_logps: Tensor | None = None


@dataclass(frozen=True)
class CrossPairValues:
    """The values that each of N pairs needs of the others.

    Example: two pairs with chosen responses of 10 and 6 tokens; no loss compares pairs.

        CrossPairValues(nll_scale=tensor([0.125, 0.125]), partners={})

    Attributes:
        nll_scale: [N] float32 or float64, by which a chosen response's negative log-probability is multiplied to give
            the `nll` of `PairTerms`.
        partners: Loss name -> [N, 2] float32 or float64 values that it compares each pair with, in nats.
        loss_factors: [N] float32 or float64 factors of each pair's loss, from β-DPO's filter; None for all 1.
    """

    nll_scale: Tensor
    partners: dict[str, Tensor]
    loss_factors: Tensor | None = None

    def of(self, pairs: Tensor) -> CrossPairValues:
        """Select the values of P pairs by their positions [P] int64."""
        return CrossPairValues(
            self.nll_scale[pairs],
            {name: values[pairs] for name, values in self.partners.items()},
            None if self.loss_factors is None else self.loss_factors[pairs],
        )


def cross_pair_values(values: StepValues, loss_types: tuple[str, ...], group: int | None) -> CrossPairValues:
    """Compute what each pair's losses need of the others.

    Args:
        values: Values of the entire step.
        loss_types: Names of the losses in use.
        group: Number of consecutive pairs that form a group; None for the entire step. TRL's group is its micro-batch.
    """
    size = group or max(1, len(values.lengths))
    partners = {}
    for name in set(loss_types) & set(PARTNERS):
        assert values.logps is not None and values.ref_logps is not None, f"{name} compares pairs by log-probability"
        partners[name] = PARTNERS[name](values.logps, values.ref_logps, size)
    return CrossPairValues(nll_scale(values.lengths[:, 0], size), partners)


def nll_scale(chosen_lengths: Tensor, group: int) -> Tensor:
    """Return pairs of the group / chosen tokens of the group for each pair: [N], in the dtype of the lengths [N]."""
    parts = [part.new_full(part.shape, len(part)) / total(part).clamp(min=1) for part in chosen_lengths.split(group)]
    return torch.cat(parts) if parts else chosen_lengths
