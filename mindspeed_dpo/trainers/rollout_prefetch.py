"""When the rollout is asked for a step's answers: as the step comes, or one step before, while the actor learns.

One step before, the answers to a step's prompts are sampled by the weights that the step before began with. The weights
are handed over only after both are done, so what samples never changes on its way. A checkpoint keeps the answers that
are there by then, and a run that goes on from it learns from the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.workers.interfaces import Rows


class AsksRollout(Protocol):
    """A rollout that can be asked while others are at work."""

    def start_generate(self, rows: Rows, first_sample: int) -> Callable[[], RolloutBatch]:
        """See `RolloutHandle.start_generate`."""

    def update_weights(self, version: int) -> None:
        """See `roles.Rollout`."""


@dataclass(frozen=True)
class Answers:
    """Answers to the prompts of a step.

    Attributes:
        rollouts: The answers.
        seconds: From asking for them to having them; None where an earlier run has had them.
    """

    rollouts: RolloutBatch
    seconds: float | None = None


@dataclass
class Asking:
    """Asks for the answers of each step.

    Attributes:
        rollout: Gives them.
        sampler: Says which prompts a step takes; its numbers index `train_rows`.
        train_rows: [n] int64 dataset rows of prompts.
        last_step: Steps done when the run is complete: there is none of this number.
        staleness: Steps between asking and learning, 0 or 1.
        held: Those of the step that comes next, or is under way; None where they are not there yet.
    """

    rollout: AsksRollout
    sampler: PairSampler
    train_rows: NDArray[np.int64]
    last_step: int
    staleness: int
    held: Answers | None
    _following: Callable[[], Answers] | None = None

    def of(self, step: int) -> Answers:
        """The answers that a step learns from."""
        if self.held is None:
            self.held = self._ask(step)()
        return self.held

    def begin_following(self, step: int) -> None:
        """Ask for those of the step after this one, if they are to be sampled meanwhile and such a step comes."""
        if self.staleness and step + 1 < self.last_step:
            self._following = self._ask(step + 1)

    def settle(self) -> None:
        """Let go of the answers of the step that is done, and wait for those that were asked for meanwhile."""
        self.held, self._following = self._following and self._following(), None

    def ahead(self) -> RolloutBatch | None:
        """What the step that comes next will learn from, where that is settled."""
        return self.held.rollouts if self.staleness and self.held is not None else None

    def _ask(self, step: int) -> Callable[[], Answers]:
        start_s = time.perf_counter()
        rows = self.train_rows[self.sampler.rows(step)]
        pending = self.rollout.start_generate(rows, step * self.sampler.global_batch_size)

        def wait() -> Answers:
            rollouts = pending()
            return Answers(rollouts, time.perf_counter() - start_s)

        return wait
