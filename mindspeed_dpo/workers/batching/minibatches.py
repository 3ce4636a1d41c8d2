"""Splits the pairs of an iteration into the minibatches of its optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RoleConfig, RunConfig


@dataclass(frozen=True)
class Minibatch:
    """The pairs of one optimizer step.

    Example: the second of two optimizer steps over five pairs.

        Minibatch(number=1, positions=array([3, 4]))

    Attributes:
        number: Optimizer step within the iteration, counted from 0.
        positions: [n] int64, positions of its pairs among those of the iteration.
    """

    number: int
    positions: NDArray[np.int64]


def steps_per_pass(role: RoleConfig) -> int:
    """Return the number of optimizer steps in each pass over the pairs of an iteration."""
    return role.batch.global_batch_size // role.pairing.ppo_mini_batch_size


def minibatches(run: RunConfig, iteration: int, num_pairs: int) -> Iterator[Minibatch]:
    """Iterate over the minibatches of an iteration; the same in every process.

    The pairs are spread evenly over as many optimizer steps as a full iteration has, so that dropped pairs do not slow
    the learning-rate schedule; steps without a pair are skipped.
    """
    pairing, per_pass = run.actor.pairing, steps_per_pass(run.actor)
    for epoch in range(pairing.ppo_epochs):
        order = np.arange(num_pairs)
        if pairing.shuffle_minibatch:
            order = np.random.default_rng([run.loop.seed, iteration, epoch]).permutation(num_pairs)
        for index, positions in enumerate(np.array_split(order, per_pass)):
            if len(positions):
                yield Minibatch(epoch * per_pass + index, positions)
