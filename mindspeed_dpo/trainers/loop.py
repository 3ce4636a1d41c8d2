"""The loop that every trainer has: step after step, with saves, evaluations, a polite stop and an end to divergence.

What a step is, a trainer says itself.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.observability.tracker import Tracker
from mindspeed_dpo.trainers.checkpoint_policy import Watch
from mindspeed_dpo.trainers.checkpointing import Saves, Saving
from mindspeed_dpo.trainers.signals import Interruption

logger = logging.getLogger(__name__)


class DivergenceError(ValueError):
    """Loss or gradient are no numbers any more."""


@dataclass(frozen=True)
class Plan:
    """How long a run is and what happens along the way, in iterations.

    Attributes:
        first_step: Steps done before; where this run begins.
        last_step: Steps done when the run is complete.
        save_interval: Steps between checkpoints, or None for one at the end only.
        eval_interval: Steps between evaluations, or None for none.
        eval_at_start: Evaluate before the first step of all, too.
        async_save: Write checkpoints while training goes on.
    """

    first_step: int
    last_step: int
    save_interval: int | None = None
    eval_interval: int | None = None
    eval_at_start: bool = False
    async_save: bool = False


@dataclass
class TrainingLoop(ABC):
    """Repeats a trainer's step.

    Attributes:
        actor: The policy.
        plan: Length and intervals.
        tracker: Takes the metrics.
        watch: Judges evaluations and looks after checkpoints.
    """

    actor: Saves
    plan: Plan
    tracker: Tracker
    watch: Watch = field(default_factory=Watch, kw_only=True)

    @abstractmethod
    def step(self, step: int) -> dict[str, float]:
        """Do one step and give its metrics."""

    def evaluate(self, done: int) -> dict[str, float]:
        """Metrics of held-out data when it is time for them, as it is after 0 steps."""
        return {}

    def totals(self) -> dict[str, int]:
        """What has been counted so far and a later run cannot count again; it is kept with every checkpoint."""
        return {}

    def ahead(self) -> RolloutBatch | None:
        """Answers that the next step learns from, where they are there already; they are kept with every checkpoint."""
        return None

    def fit(self) -> int:
        """Train to the end, until evaluations do not improve, or to the end of the step in which a stop is asked for.

        Returns:
            Steps done. A checkpoint of exactly that step has been written.
        """
        saved = done = self.plan.first_step
        with Interruption() as interruption, self.saving:
            if done == 0 and self.plan.eval_at_start:
                self.tracker.log(0, self.evaluate(0))
            while not self.is_complete(done) and not interruption.requested:
                try:
                    metrics = self.step(done)
                except DivergenceError:
                    # The weights are still those of the step before.
                    if saved != done:
                        self.save(done)
                    raise
                done += 1
                metrics.update(self.evaluate(done))
                self.saving.settle()
                # Before the checkpoint: a run that resumes from it must not miss this step's line.
                self.tracker.log(done, metrics)
                is_best = self.watch.judge(done, metrics)
                if is_best or is_due(done, self.plan.save_interval):
                    saved = self.save(done)
            interruption.log()
            if self.watch.is_over:
                logger.info("%s", self.watch.verdict)
            if saved != done:
                self.save(done)
        return done

    def is_complete(self, done: int) -> bool:
        """Whether nothing is left to do after so many steps."""
        return done >= self.plan.last_step or self.watch.is_over

    def save(self, done: int) -> int:
        """Write a checkpoint after `done` steps and return their number."""
        self.saving.save(done, {"totals": self.totals()}, self.ahead())
        return done

    @cached_property
    def saving(self) -> Saving:
        """Who writes them."""
        return Saving(self.actor, self.watch, self.plan.async_save)


TrainerOf = Callable[..., TrainingLoop]
"""A trainer that lacks its tracker only: called with `tracker` by keyword."""


def is_due(done: int, interval: int | None) -> bool:
    """Whether something that happens at an interval happens after `done` steps; never without an interval."""
    return bool(interval) and done % interval == 0  # type: ignore[operator]


def check_finite(step: int, metrics: Mapping[str, float]) -> None:
    """Stop before a checkpoint of broken weights is written.

    Raises:
        DivergenceError: Loss or gradient are not finite.
    """
    broken = [f"{name} is {metrics[name]}" for name in ("loss", "grad_norm") if not math.isfinite(metrics[name])]
    if broken:
        raise DivergenceError(
            f"step {step + 1}: {' and '.join(broken)}; the weights were not updated, and the newest checkpoint is that "
            f"of step {step}. Lower lr or clip_grad, or look for a broken row in the data"
        )
