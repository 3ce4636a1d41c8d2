"""Checkpoint policy: marks the best checkpoint, and deletes old checkpoints.

Its state is saved in every checkpoint, so a resumed run decides as if it had never stopped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoints.checkpoint_retention import mark_best, prune
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, iteration_dir
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.trainers.early_stopping import BestMetricRule, EvaluationHistory, stop_reason
from mindspeed_dpo.trainers.resuming.resume import ResumePoint

logger = logging.getLogger(__name__)


@dataclass
class CheckpointPolicy:
    """Decides after each evaluation and after each complete checkpoint.

    Attributes:
        rule: Its settings.
        save: Folder of the checkpoints.
        history: Summary of earlier evaluations.
    """

    rule: BestMetricRule = field(default_factory=BestMetricRule)
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
        self.history.metric = name
        folder = os.path.abspath(iteration_dir(self.save, num_done))
        return self.history.record(self.rule, num_done, float(metrics[name]), folder)

    @property
    def should_stop(self) -> bool:
        """Whether `patience` evaluations have passed without improvement."""
        return self.history.is_patience_exhausted(self.rule)

    @property
    def stop_reason(self) -> str:
        """Log message of early stopping."""
        return stop_reason(self.rule, self.history)

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
        is_local = real_path(folder.parent) == real_path(self.save)
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
