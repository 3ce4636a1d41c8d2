"""Training a reward model: the likelihood of ranked responses under their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mindspeed_dpo.algorithms.objective import PairLosses
from mindspeed_dpo.algorithms.reward_model import ResponseScores, RewardModelObjective
from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.settings.reward_model import RewardModelConfig
from mindspeed_dpo.device.ops.sums import sum_dtype
from mindspeed_dpo.workers.criteria.criterion import MicroBatchLosses


class RankingCriterion:
    """The loss of a reward model, as `Criterion` describes; it has no state."""

    needs_step_outputs = False

    def __init__(self, settings: RewardModelConfig) -> None:
        """Build the objective from the settings of a role."""
        self._objective = RewardModelObjective(settings)

    def begin(self, iteration: int) -> None:
        """Do nothing: the loss is the same in every iteration."""

    def of_step(
        self,
        batches: Sequence[PackedBatch],
        outputs: Sequence[Tensor] | None,
        num_pairs: int,
        *,
        is_training: bool,
    ) -> MicroBatchLosses:
        """Return the losses of micro-batches, each of which is independent of the others."""
        return self._losses_and_metrics

    def metrics(self) -> dict[str, float]:
        """Return nothing: no setting changes during a run."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, metadata: Mapping[str, Any]) -> None:
        """Do nothing."""

    def _losses_and_metrics(self, batch: PackedBatch, scores: Tensor) -> PairLosses:
        """Return the losses [P] of a micro-batch with scores [P, K], each times its row's weight, and its metrics."""
        wide = scores.to(sum_dtype(scores.device))
        return self._objective(ResponseScores(wide, batch.weights, batch.factors, batch.margins))
