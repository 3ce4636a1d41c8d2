"""The objective of reward-model training: scores of ranked responses instead of log-probabilities under two models.

As in `objective`, losses are not averaged, so that the result is independent of how a step is split.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.calibration import calibration_gaps
from mindspeed_dpo.algorithms.losses.bradley_terry import bradley_terry_loss
from mindspeed_dpo.algorithms.losses.plackett_luce import plackett_luce_loss
from mindspeed_dpo.algorithms.objective import PairLosses
from mindspeed_dpo.config.settings.reward_model import CENTER_TERM, PREFERENCE_TERM, RewardModelConfig
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.observability.metric_sums import MetricSums


@dataclass(frozen=True)
class ResponseScores:
    """Inputs of the objective for P rows of K ranked responses.

    Example: one pair.

        ResponseScores(scores=tensor([[1.5, -0.5]]))

    Attributes:
        scores: [P, K] float32 or float64 scores with gradient; the best response first, for a pair the chosen one.
        weights: [P] float, 1 for a row and 0 for padding, or None for all 1. A row of weight 0 has loss and gradient 0
            and is not counted, even if its scores are not finite.
        present: [P, K] bool, which responses there are: the first ones of each row, at least two. None for all.
        factors: [P] float32 factors of each row's loss (`weight_column`), or None for all 1.
        margins: [P] float32 margins of pairs as the data gives them (`margin_column`), which times `margin_scale` are
            in units of scores, or None for all 0.
    """

    scores: Tensor
    weights: Tensor | None = None
    present: Tensor | None = None
    factors: Tensor | None = None
    margins: Tensor | None = None


@dataclass(frozen=True)
class RewardModelObjective:
    """The likelihood of the rankings under the scores, and the penalty that centres the scores at 0.

    Example:
        RewardModelObjective(RewardModelConfig(center_rewards_coefficient=0.01))

    Attributes:
        settings: Validated settings.
        margin_scale: Factor of margins.
    """

    settings: RewardModelConfig = field(default_factory=RewardModelConfig)
    margin_scale: float = 1.0

    def __call__(self, responses: ResponseScores, *, with_calibration: bool = False) -> PairLosses:
        """Compute the losses and metric sums of P rows.

        Args:
            responses: The scores of the responses.
            with_calibration: Also sum what a calibration error is made of.

        Raises:
            ValueError: Shapes or dtypes do not fit.
        """
        scores = responses.scores
        weights = torch.ones_like(scores[:, 0]) if responses.weights is None else responses.weights.to(scores.dtype)
        if weights.shape != scores.shape[:1]:
            raise ValueError(f"weights must be [{len(scores)}], one per row, got {list(weights.shape)}")
        present = torch.ones_like(scores, dtype=torch.bool) if responses.present is None else responses.present
        # 0 * NaN would be NaN, in the gradient too.
        scores = torch.where((weights != 0).unsqueeze(1) & present, scores, torch.zeros_like(scores))
        terms = {PREFERENCE_TERM: self._ranking_loss(scores, present, responses.margins)}
        losses, coefficient = terms[PREFERENCE_TERM], self.settings.center_rewards_coefficient
        if coefficient:
            terms[CENTER_TERM] = center_penalty(scores, present)
            losses = losses + coefficient * terms[CENTER_TERM]
        losses = losses if responses.factors is None else losses * responses.factors
        values = {"loss": losses, **pair_metrics(scores, present, with_calibration)}
        values |= {f"loss/{name}": term for name, term in terms.items()} if len(terms) > 1 else {}
        of_rows = torch.stack([value.detach() for value in values.values()], 1)
        sums = MetricSums.of(values, total(of_rows * weights[:, None]), total(weights).expand(len(values)))
        return PairLosses(losses * weights, sums, values["rewards/margins"])

    def _ranking_loss(self, scores: Tensor, present: Tensor, margins: Tensor | None) -> Tensor:
        if scores.shape[1] == 2:
            scaled = None if margins is None else self.margin_scale * margins
            return bradley_terry_loss(scores, scaled, self.settings.rm_label_smoothing)
        return plackett_luce_loss(scores, present)


def center_penalty(scores: Tensor, present: Tensor) -> Tensor:
    """Square of twice the mean score of each row, for a pair (r_c + r_r)^2, Eisenstein et al. 2023 (arXiv:2312.09244).

    Args:
        scores: [P, K] float32 or float64, 0 for responses that do not exist.
        present: [P, K] bool, which responses there are.

    Returns:
        [P] in the same dtype.
    """
    return (2 * scores.sum(1) / present.sum(1)).square()


def pair_metrics(scores: Tensor, present: Tensor, with_calibration: bool) -> dict[str, Tensor]:
    """Compute the metrics of P rows, without gradient; of K responses the mean over all pairs of each row.

    Args:
        scores: [P, K] float32 or float64, the best response first.
        present: [P, K] bool, which responses there are.
        with_calibration: Also return the gaps of `calibration_gaps`.

    Returns:
        Name -> [P] in the dtype of the scores.
    """
    scores = scores.detach()
    better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1, device=scores.device)
    chosen, rejected = scores[:, better], scores[:, worse]
    margins = chosen - rejected
    # The worse response of a pair is the later one, so that the better one exists if it does.
    shares = present[:, worse].to(scores.dtype)
    shares = shares / shares.sum(1, keepdim=True)
    of_pairs = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margins,
        # Strictly greater: a tie is not a success.
        "rewards/accuracies": (margins > 0).to(scores.dtype),
        "rewards/brier": torch.sigmoid(-margins).square(),
        **(calibration_gaps(margins) if with_calibration else {}),
    }
    return {name: (value * shares).sum(1) for name, value in of_pairs.items()}
