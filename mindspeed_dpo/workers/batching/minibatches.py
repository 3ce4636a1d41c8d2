"""How the pairs of an iteration are spread over optimizer steps: passes, mini-batches, and their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.workers.setup.objectives import steps_per_pass


@dataclass(frozen=True)
class Lesson:
    """One optimizer step.

    Attributes:
        number: Place among the steps of the iteration.
        positions: [n] int64 of its pairs.
    """

    number: int
    positions: NDArray[np.int64]


def lessons(run: RunConfig, iteration: int, num_pairs: int) -> Iterator[Lesson]:
    """The optimizer steps of an iteration, alike in every process.

    The pairs are spread evenly over as many steps as a full iteration has, so that the schedule keeps its pace when
    pairs were left out; steps without a pair are skipped.
    """
    pairing, per_pass = run.actor.pairing, steps_per_pass(run.actor)
    for epoch in range(pairing.ppo_epochs):
        order = np.arange(num_pairs)
        if pairing.shuffle_minibatch:
            order = np.random.default_rng([run.loop.seed, iteration, epoch]).permutation(num_pairs)
        for place, positions in enumerate(np.array_split(order, per_pass)):
            if len(positions):
                yield Lesson(epoch * per_pass + place, positions)
