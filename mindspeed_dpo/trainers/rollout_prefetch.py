"""Prefetches rollouts: a step's responses are generated when it starts, or one step before, while the actor trains.

Prefetched responses are sampled with the weights that the step before started from. Weights are transferred only after
both generation and training have finished, so they never change during generation. A checkpoint stores the rollouts
that are prefetched by then, and a run that resumes from it trains on the same ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.controller.role_groups import RolloutGroup
from mindspeed_dpo.data.datasets.sampler import PairSampler


@dataclass(frozen=True)
class StepRollouts:
    """Responses to the prompts of a step.

    Attributes:
        rollouts: Prompts and responses.
        duration_s: From requesting them to receiving them; None where they come from a checkpoint.
    """

    rollouts: RolloutBatch
    duration_s: float | None = None


@dataclass
class RolloutPrefetcher:
    """Requests the rollouts of each step.

    Attributes:
        rollout: Generates them.
        sampler: Samples the prompts of each step; its numbers index `train_rows`.
        train_rows: [n] int64 dataset rows of prompts.
        last_step: Steps completed at the end of the run; no step has this number.
        staleness: Steps between generating and training, 0 or 1.
        current: Rollouts of the current step, or between steps those of the next; None where not yet generated.
    """

    rollout: RolloutGroup
    sampler: PairSampler
    train_rows: NDArray[np.int64]
    last_step: int
    staleness: int
    current: StepRollouts | None
    _pending: Callable[[], StepRollouts] | None = None

    def rollouts_of(self, step: int) -> StepRollouts:
        """Return the rollouts of the current step; generate them if they were not prefetched."""
        if self.current is None:
            self.current = self._start(step)()
        return self.current

    def prefetch(self, step: int) -> None:
        """Start to generate the rollouts of a step, with staleness and before the run's end."""
        if self.staleness and step < self.last_step:
            self._pending = self._start(step)

    def advance(self) -> None:
        """Drop the rollouts of the completed step and wait for the prefetched ones."""
        self.current, self._pending = self._pending and self._pending(), None

    def prefetched(self) -> RolloutBatch | None:
        """Return the rollouts of the next step, where they are generated already, to be saved in a checkpoint."""
        return self.current.rollouts if self.staleness and self.current is not None else None

    def _start(self, step: int) -> Callable[[], StepRollouts]:
        start_s = time.perf_counter()
        rows = self.train_rows[self.sampler.rows(step)]
        pending = self.rollout.start_generate(rows, step * self.sampler.global_batch_size)

        def wait() -> StepRollouts:
            rollouts = pending()
            return StepRollouts(rollouts, time.perf_counter() - start_s)

        return wait
