"""Training a reward model: the likelihood of ranked responses under their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from typing_extensions import override

from mindspeed_dpo.algorithms.calibration import with_calibration_error
from mindspeed_dpo.algorithms.objective import PairLosses
from mindspeed_dpo.algorithms.ranking_objective import ResponseScores, RewardModelObjective
from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.device.ops.sums import sum_dtype
from mindspeed_dpo.workers.criteria.criterion import Criterion, MicroBatchLosses


class RankingCriterion(Criterion):
    """The loss of a reward model; it is the same in every step and has no state."""

    def __init__(self, role: RoleConfig) -> None:
        """Build the objective from the settings of the actor."""
        self._objective = RewardModelObjective(role.reward_model, role.loss.margin_scale)

    @property
    @override
    def needs_step_outputs(self) -> bool:
        return False

    @override
    def begin(self, iteration: int) -> None:
        pass

    @override
    def of_step(
        self,
        batches: Sequence[PackedBatch],
        outputs: Sequence[Tensor] | None,
        num_pairs: int,
        *,
        is_training: bool,
    ) -> MicroBatchLosses:
        return partial(self._losses_and_metrics, not is_training)

    @override
    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        return with_calibration_error(means)

    @override
    def metrics(self) -> dict[str, float]:
        return {}

    @override
    def state(self) -> dict[str, Any]:
        return {}

    @override
    def restore(self, metadata: Mapping[str, Any]) -> None:
        pass

    def _losses_and_metrics(self, with_calibration: bool, batch: PackedBatch, scores: Tensor) -> PairLosses:
        """Return the losses [P] of a micro-batch with scores [P, K], each times its row's weight, and its metrics."""
        wide = scores.to(sum_dtype(scores.device))
        present = batch.response_lengths > 0
        responses = ResponseScores(wide, batch.weights, present, batch.factors, batch.margins)
        return self._objective(responses, with_calibration=with_calibration)
