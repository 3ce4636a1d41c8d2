"""Early stopping: when a metric of the evaluations counts as improved, and when to wait no longer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mindspeed_dpo.config.run import RunConfig


@dataclass(frozen=True)
class BestMetricRule:
    """Settings of the policy.

    Attributes:
        metric: Name of the evaluation metric; None tracks none.
        is_min: Whether a smaller value is better.
        patience: Consecutive evaluations without improvement that stop the run; None never stops it.
        min_delta: A change of more than this counts as an improvement for `patience`.
        keep: Number of newest checkpoints to keep; None keeps all.
    """

    metric: str | None = None
    is_min: bool = True
    patience: int | None = None
    min_delta: float = 0.0
    keep: int | None = None

    @classmethod
    def of(cls, run: RunConfig) -> BestMetricRule:
        """Return the rule that a run's settings describe."""
        loop = run.loop
        return cls(
            loop.best_metric,
            loop.best_metric_mode == "min",
            loop.early_stop_patience,
            loop.early_stop_min_delta,
            run.actor.checkpoint.keep_last_checkpoints,
        )

    def is_better(self, value: float, before: float | None, by: float = 0.0) -> bool:
        """Return whether a value improves on an earlier one by more than `by`; NaN and infinity never do."""
        if not math.isfinite(value):
            return False
        return before is None or (before - value if self.is_min else value - before) > by


@dataclass
class EvaluationHistory:
    """Summary of the evaluations so far, saved in checkpoints as `progress`.

    Attributes:
        metric: Name of the metric.
        step: Step of the best value.
        value: Best value.
        folder: Absolute path of the best checkpoint.
        counted: Last value that was an improvement by more than `min_delta`.
        waited: Evaluations since that one.
    """

    metric: str | None = None
    step: int | None = None
    value: float | None = None
    folder: str | None = None
    counted: float | None = None
    waited: int = 0

    def record(self, rule: BestMetricRule, num_done: int, value: float, folder: str) -> bool:
        """Record an evaluation after a step; return whether it is the best so far, which is saved in `folder`."""
        if rule.is_better(value, self.counted, rule.min_delta):
            self.counted, self.waited = value, 0
        else:
            self.waited += 1
        is_best = rule.is_better(value, self.value)
        if is_best:
            self.step, self.value, self.folder = num_done, value, folder
        return is_best

    def is_patience_exhausted(self, rule: BestMetricRule) -> bool:
        """Whether `patience` evaluations have passed without improvement."""
        return rule.patience is not None and self.waited >= rule.patience


def stop_reason(rule: BestMetricRule, history: EvaluationHistory) -> str:
    """Return the log message of early stopping."""
    return (
        f"stopping early: {rule.metric} has not improved by more than {rule.min_delta:g} in {history.waited} "
        f"evaluations; its best is {history.value} at step {history.step}"
    )
