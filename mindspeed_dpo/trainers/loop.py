"""The training loop: steps with checkpoints, evaluations, graceful shutdown, early stopping and the end by divergence.

Each trainer defines its own step.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.observability.tracker import Tracker
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.checkpoint_writer import CheckpointWriter
from mindspeed_dpo.trainers.nan_check import DivergenceError
from mindspeed_dpo.trainers.step_completion_on_signal import GracefulShutdown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSchedule:
    """Length of a run and intervals of its checkpoints and evaluations, in steps.

    Attributes:
        first_step: Steps completed by an earlier run; 0 for a new one.
        last_step: Steps completed at the end of the run.
        save_interval: Steps between checkpoints; None for one at the end only.
        eval_interval: Steps between evaluations; None for none.
        eval_at_start: Also evaluate before step 0.
        async_save: Write checkpoints in the background.
    """

    first_step: int
    last_step: int
    save_interval: int | None = None
    eval_interval: int | None = None
    eval_at_start: bool = False
    async_save: bool = False

    @classmethod
    def of(cls, config: RunConfig, first_step: int) -> LoopSchedule:
        """Return the schedule of a run that continues after `first_step` steps."""
        loop, checkpoint = config.loop, config.actor.checkpoint
        return cls(
            first_step,
            loop.train_iters,
            checkpoint.save_interval,
            loop.eval_interval,
            loop.eval_at_start,
            checkpoint.async_save,
        )


@dataclass
class TrainingLoop(ABC):
    """Runs a trainer's steps.

    Attributes:
        actor: The policy.
        schedule: Length of the run and intervals.
        tracker: Receives the metrics.
        checkpoint_policy: Selects the best checkpoint, stops early and deletes old checkpoints.
        recorded: JSON values that every checkpoint's metadata holds.
    """

    actor: ActorGroup
    schedule: LoopSchedule
    tracker: Tracker
    checkpoint_policy: CheckpointPolicy = field(default_factory=CheckpointPolicy, kw_only=True)
    recorded: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """Do one step, counted from 0, and return its metrics."""

    def evaluate(self, num_done: int) -> dict[str, float]:
        """Return the metrics of held-out data if an evaluation is due, as it is after 0 steps; by default none."""
        return {}

    def is_evaluation_due(self, num_done: int) -> bool:
        """Return whether to evaluate after so many steps: at the interval and after the last step."""
        interval = self.schedule.eval_interval
        return is_due(num_done, interval) or (interval is not None and num_done == self.schedule.last_step)

    def totals(self) -> dict[str, int]:
        """Return counters that a resumed run could not recompute, to be saved in every checkpoint."""
        return {}

    def prefetched(self) -> RolloutBatch | None:
        """Return rollouts already generated for the next step, to be saved in every checkpoint."""
        return None

    def fit(self) -> int:
        """Train to the last step, until evaluations stop improving, or to the end of the step that is interrupted.

        Returns:
            Steps completed. A checkpoint of exactly that step has been written.

        Raises:
            DivergenceError: Loss or gradient norm is not finite; the step before has been saved.
        """
        saved = done = self.schedule.first_step
        with GracefulShutdown() as shutdown, self.checkpoint_writer:
            if done == 0 and self.schedule.eval_at_start:
                self.tracker.log(0, self.evaluate(0))
            while not self.is_complete(done) and not shutdown.requested:
                try:
                    metrics = self.step(done)
                except DivergenceError:
                    # The weights are unchanged since the step before.
                    if saved != done:
                        self.save(done)
                    raise
                done += 1
                metrics.update(self.evaluate(done))
                self.checkpoint_writer.poll()
                # Before the checkpoint: a run that resumes from it must not miss this step's line.
                self.tracker.log(done, metrics)
                is_best = self.checkpoint_policy.update(done, metrics)
                if is_best or is_due(done, self.schedule.save_interval):
                    saved = self.save(done)
            shutdown.log()
            if self.checkpoint_policy.should_stop:
                logger.info("%s", self.checkpoint_policy.stop_reason)
            if saved != done:
                self.save(done)
        return done

    def is_complete(self, num_done: int) -> bool:
        """Return whether the run is complete after so many steps, or stopped early."""
        return num_done >= self.schedule.last_step or self.checkpoint_policy.should_stop

    def save(self, num_done: int) -> int:
        """Write a checkpoint after `num_done` steps and return their number."""
        self.checkpoint_writer.save(num_done, {**self.recorded, "totals": self.totals()}, self.prefetched())
        return num_done

    @cached_property
    def checkpoint_writer(self) -> CheckpointWriter:
        """Writer of this run's checkpoints."""
        return CheckpointWriter(self.actor, self.checkpoint_policy, self.schedule.async_save)


def is_due(num_done: int, interval: int | None) -> bool:
    """Return whether a periodic action is due after `num_done` steps; never without an interval."""
    return interval is not None and interval > 0 and num_done % interval == 0
