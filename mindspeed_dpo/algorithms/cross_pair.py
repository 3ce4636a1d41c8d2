"""What losses that look across pairs must know of the whole step, however it is split.

Most losses see one pair. Some sort all pairs (aot), average over all tokens (sft) or set beta by the batch (β-DPO).
For these the values of every pair of the optimizer step are gathered first, without gradient; from them follows what
each pair is compared with or scaled by, and the loss is then again a value per pair that any micro-batch can compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses.aot import aot_partners, aot_unpaired_partners
from mindspeed_dpo.algorithms.losses.pair_terms import margin

PARTNERS = {"aot": aot_partners, "aot_unpaired": aot_unpaired_partners}


@dataclass(frozen=True)
class StepValues:
    """Values of all N pairs of an optimizer step, in one order on every rank, without gradient.

    Attributes:
        lengths: [N, 2] float32 response tokens.
        logps: [N, 2] float32 summed log-probabilities of the policy before the update, in nats; None where no loss of
            the step needs them.
        ref_logps: [N, 2] float32, the same from the reference.
    """

    lengths: Tensor
    logps: Tensor | None = None
    ref_logps: Tensor | None = None


@dataclass(frozen=True)
class AcrossPairs:
    """What follows for each pair.

    Attributes:
        nll_scale: [N] float32; times a chosen response's negative log-probability it gives `nll` of the losses.
        partners: For each loss that compares pairs with others, [N, 2].
    """

    nll_scale: Tensor
    partners: dict[str, Tensor]

    def of(self, pairs: Tensor) -> AcrossPairs:
        """The same for some pairs, by their numbers [P] int64."""
        return AcrossPairs(self.nll_scale[pairs], {name: values[pairs] for name, values in self.partners.items()})


def across_pairs(values: StepValues, loss_types: tuple[str, ...], group: int | None) -> AcrossPairs:
    """What each pair's losses need of the others.

    Args:
        values: Of the whole step.
        loss_types: The losses in use.
        group: Pairs that follow each other and belong together; None for the whole step. TRL's group is its
            micro-batch.
    """
    size = group or max(1, len(values.lengths))
    partners = {}
    for name in set(loss_types) & set(PARTNERS):
        assert values.logps is not None and values.ref_logps is not None, f"{name} compares pairs by log-probability"
        partners[name] = PARTNERS[name](values.logps, values.ref_logps, size)
    return AcrossPairs(nll_scale(values.lengths[:, 0], size), partners)


def nll_scale(chosen_lengths: Tensor, group: int) -> Tensor:
    """Pairs of the group over chosen tokens of the group: [N] of [N], floating."""
    parts = [part.new_full(part.shape, len(part)) / part.sum().clamp(min=1) for part in chosen_lengths.split(group)]
    return torch.cat(parts) if parts else chosen_lengths


def adapted_beta(
    beta: float, values: StepValues, usual: float, *, alpha: float, momentum: float
) -> tuple[float, float]:
    """A batch's beta, equation 8 of Wu et al. 2024 (β-DPO, arXiv:2407.08639), not below a hundredth of `beta`.

    With M the mean over the batch of beta times the margin of log-ratios: [1 + alpha (M - usual)] beta.

    Args:
        beta: The beta that a usual batch gets, per nat.
        values: Of the whole step.
        usual: Running mean of M over the batches before.
        alpha: How strongly beta follows.
        momentum: Share of the past in the running mean (equation 9).

    Returns:
        The batch's beta, and the running mean after it, both float32 numbers, so that any process can pass them on.
    """
    assert values.logps is not None and values.ref_logps is not None, "beta follows log-probabilities"
    mean = beta * (margin(values.logps) - margin(values.ref_logps)).mean().item()
    after = momentum * usual + (1 - momentum) * mean
    return _float32(beta * max(1 + alpha * (mean - usual), 0.01)), _float32(after)


def _float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()
