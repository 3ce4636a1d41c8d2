"""Checkpoint policy: marks the best checkpoint, stops early, and deletes old checkpoints.

Its state is saved in every checkpoint, so a resumed run decides as if it had never stopped.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoint_files import METADATA, iteration_dir
from mindspeed_dpo.engine.retention import mark_best, prune
from mindspeed_dpo.trainers.resume import ResumePoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BestMetricRule:
    """Settings of the policy.

    Attributes:
        metric: Name of the evaluation metric; None tracks none.
        is_min: Whether a smaller value is better.
        patience: Consecutive evaluations without improvement that stop the run; None never stops it.
        min_delta: Smallest change that counts as an improvement for `patience`.
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
        counted: Last value that was an improvement by at least `min_delta`.
        waited: Evaluations since that one.
    """

    metric: str | None = None
    step: int | None = None
    value: float | None = None
    folder: str | None = None
    counted: float | None = None
    waited: int = 0


@dataclass
class CheckpointPolicy:
    """Decides after each evaluation and after each complete checkpoint.

    Attributes:
        rule: Its settings.
        save: Folder of the checkpoints.
        history: Summary of earlier evaluations.
    """

    rule: BestMetricRule = BestMetricRule()
    save: Path = Path()
    history: EvaluationHistory = field(default_factory=EvaluationHistory)

    @classmethod
    def of(cls, run: RunConfig, resume_point: ResumePoint | None) -> CheckpointPolicy:
        """Return the policy of a run, with the history of the checkpoint that it resumes from."""
        policy = cls(BestMetricRule.of(run), Path(run.actor.checkpoint.save))
        earlier = (resume_point.metadata.get("progress") or {}) if resume_point else {}
        if resume_point is None or not earlier or policy.rule.metric is None:
            return policy
        if earlier.get("metric") != policy.rule.metric:
            logger.warning(
                "best_metric was %s and is now %s: starting a new search for the best checkpoint",
                *(earlier.get("metric"), policy.rule.metric),
            )
            return policy
        policy.history = EvaluationHistory(**earlier)
        policy._find_best(resume_point.folder.parent)
        return policy

    def update(self, num_done: int, metrics: Mapping[str, float]) -> bool:
        """Record the metrics of a step; return whether it is the best so far and should be saved."""
        name = self.rule.metric
        if name is None or name not in metrics:
            return False
        value, history = float(metrics[name]), self.history
        history.metric = name
        if self.rule.is_better(value, history.counted, self.rule.min_delta):
            history.counted, history.waited = value, 0
        else:
            history.waited += 1
        is_best = self.rule.is_better(value, history.value)
        if is_best:
            history.step, history.value = num_done, value
            history.folder = os.path.abspath(iteration_dir(self.save, num_done))
        return is_best

    @property
    def should_stop(self) -> bool:
        """Whether `patience` evaluations have passed without improvement."""
        return self.rule.patience is not None and self.history.waited >= self.rule.patience

    @property
    def stop_reason(self) -> str:
        """Log message of early stopping."""
        history = self.history
        return (
            f"stopping early: {self.rule.metric} has not improved by more than {self.rule.min_delta:g} in "
            f"{history.waited} evaluations; its best is {history.value} at step {history.step}"
        )

    def progress(self) -> dict[str, Any] | None:
        """Return the history to save in a checkpoint; None without a metric."""
        return asdict(self.history) if self.rule.metric is not None else None

    def on_checkpoint_complete(self, num_done: int) -> Callable[[], None]:
        """Return what to do once the checkpoint of this step is complete: mark the best one, delete old ones.

        It uses a copy of the history: by then a better checkpoint may be in progress, which must not be marked yet, nor
        the previous best one deleted.
        """
        history = replace(self.history)

        def apply() -> None:
            self._mark(history)
            if self.rule.keep is not None:
                prune(self.save, num_done, self.rule.keep, {history.step} if history.step is not None else ())

        return apply

    def _mark(self, history: EvaluationHistory) -> None:
        if history.folder is None:
            return
        folder = Path(history.folder)
        is_local = folder.parent.resolve() == self.save.resolve()
        mark_best(
            self.save,
            {
                "metric": history.metric,
                "mode": "min" if self.rule.is_min else "max",
                "step": history.step,
                "value": history.value,
                "checkpoint": folder.name if is_local else history.folder,
            },
        )

    def _find_best(self, save: Path) -> None:
        """Locate the best checkpoint, as folders may have been moved, and mark it again."""
        history = self.history
        if history.step is None:
            return
        candidates = [iteration_dir(save, history.step), Path(str(history.folder))]
        folder = next((candidate for candidate in candidates if (candidate / METADATA).is_file()), None)
        if folder is None:
            logger.warning(
                "the best checkpoint, of step %d with %s %s, no longer exists; its value still counts",
                *(history.step, history.metric, history.value),
            )
        history.folder = os.path.abspath(folder) if folder else None
        self._mark(history)
