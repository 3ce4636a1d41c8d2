"""The objective of preference training: a pair loss with its settings, and the metrics that belong to it.

The engine calls it once per micro-batch with log-probabilities and divides the summed losses by the number of pairs of
the whole step; nothing here averages, so no split of a step changes the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.losses import PAIR_LOSSES, pair_loss
from mindspeed_dpo.algorithms.losses.ratios import check_pairs, implicit_rewards, per_token
from mindspeed_dpo.observability.metrics import MetricSums


@dataclass(frozen=True)
class PairLosses:
    """What the objective returns for P pairs.

    Attributes:
        losses: [P], each times its pair's weight, with gradient.
        sums: Metrics summed over the pairs, each with its weight, without gradient.
    """

    losses: Tensor
    sums: MetricSums


@dataclass(frozen=True)
class PreferenceObjective:
    """A pair loss with its settings, checked when built.

    Attributes:
        loss_type: A name of `PAIR_LOSSES`.
        beta: Strength of the pull towards the reference, per nat; greater than 0.
        label_smoothing: Probability in [0, 0.5) that a preference label is flipped.
        pref_ftx: Weight, at least 0, of the mean negative log-probability per token of the chosen response, which is
            added to each pair's loss.
        ipo_normalize: Whether `ipo` divides log-ratios by the response's length.

    Raises:
        ValueError: A setting is out of range or would have no effect; all problems at once.
    """

    loss_type: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    pref_ftx: float = 0.0
    ipo_normalize: bool = True

    def __post_init__(self) -> None:
        reads = pair_loss(self.loss_type).reads
        problems = []
        if not (math.isfinite(self.beta) and self.beta > 0):
            problems.append(f"dpo_beta={self.beta} must be a number greater than 0")
        if not 0 <= self.label_smoothing < 0.5:
            problems.append(f"dpo_label_smoothing={self.label_smoothing} must be in [0, 0.5)")
        elif self.label_smoothing and "label_smoothing" not in reads:
            able = ", ".join(name for name, loss in PAIR_LOSSES.items() if "label_smoothing" in loss.reads)
            problems.append(
                f"dpo_label_smoothing={self.label_smoothing} has no effect with dpo_loss_type={self.loss_type}: "
                f"set it to 0 or choose {able}"
            )
        elif not self.label_smoothing and "label_smoothing" in pair_loss(self.loss_type).needs:
            problems.append(f"dpo_loss_type={self.loss_type} needs dpo_label_smoothing above 0, e.g. 0.001")
        if not (math.isfinite(self.pref_ftx) and self.pref_ftx >= 0):
            problems.append(f"pref_ftx={self.pref_ftx} must be a number of at least 0")
        if problems:
            raise ValueError("; ".join(problems))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the sums a call returns, sorted: what a rank without pairs passes to `MetricSums.vector`."""
        terms = (f"loss/{self.loss_type}", "loss/pref_ftx") if self.pref_ftx else ()
        pairs = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
        return tuple(sorted(("loss", *terms, *pairs, "logps/chosen", "logps/rejected")))

    def __call__(self, logps: Tensor, lengths: Tensor, ref_logps: Tensor, weights: Tensor | None = None) -> PairLosses:
        """Losses and metric sums of P pairs.

        Args:
            logps: [P, 2] float32, summed response log-probabilities of the policy, in nats; column 0 is chosen.
            lengths: [P, 2] integers, response tokens.
            ref_logps: [P, 2] float32, the same as `logps` from the frozen reference; takes no gradient.
            weights: [P] float, 1 for a pair and 0 for padding, or None for all 1. A pair of weight 0 has loss and
                gradient 0 and counts nowhere, even if its log-probabilities are not finite.

        Raises:
            ValueError: Shapes or dtypes do not fit.
        """
        check_pairs("logps", logps)
        weights = torch.ones_like(logps[:, 0]) if weights is None else weights.to(logps.dtype)
        if weights.shape != logps.shape[:1]:
            raise ValueError(f"weights must be [{len(logps)}], one per pair, got {list(weights.shape)}")
        logps, ref_logps = _blank_padding(logps, ref_logps.detach(), weights)
        terms = self._terms(logps, lengths, ref_logps)
        losses = terms[self.loss_type] + self.pref_ftx * terms["pref_ftx"] if self.pref_ftx else terms[self.loss_type]
        sums = self._sums(losses, terms, logps, ref_logps, weights)
        return PairLosses(losses * weights, sums)

    def _terms(self, logps: Tensor, lengths: Tensor, ref_logps: Tensor) -> dict[str, Tensor]:
        """Every term of the loss, [P] each, before its coefficient."""
        loss = pair_loss(self.loss_type)
        available = {"lengths": lengths, "label_smoothing": self.label_smoothing, "ipo_normalize": self.ipo_normalize}
        chosen = {name: available[name] for name in loss.reads}
        terms = {self.loss_type: loss.function(logps, ref_logps, beta=self.beta, **chosen)}
        if self.pref_ftx:
            terms["pref_ftx"] = -per_token(logps, lengths)[:, 0]
        return terms

    def _sums(
        self, losses: Tensor, terms: dict[str, Tensor], logps: Tensor, ref_logps: Tensor, weights: Tensor
    ) -> MetricSums:
        """The metrics of the pairs, summed with their weights."""
        rewards = implicit_rewards(logps.detach(), ref_logps, beta=self.beta)
        values = {
            "loss": losses,
            "rewards/chosen": rewards[:, 0],
            "rewards/rejected": rewards[:, 1],
            "rewards/margins": rewards[:, 0] - rewards[:, 1],
            # Strict: a pair the policy cannot tell apart is not a success.
            "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).to(weights.dtype),
            "logps/chosen": logps[:, 0],
            "logps/rejected": logps[:, 1],
        }
        if self.pref_ftx:
            values.update({f"loss/{name}": term for name, term in terms.items()})
        sums, weight = MetricSums(), weights.sum()
        for name, value in values.items():
            sums.add(name, (value.detach() * weights).sum(), weight)
        return sums


def _blank_padding(logps: Tensor, ref_logps: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Zero log-probabilities where the weight is 0: a product with 0 would keep a NaN, and in the gradient too."""
    real = (weights != 0).unsqueeze(1)
    return torch.where(real, logps, torch.zeros_like(logps)), torch.where(real, ref_logps, torch.zeros_like(ref_logps))
