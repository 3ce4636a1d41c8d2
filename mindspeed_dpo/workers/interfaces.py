"""What a role can be asked, and how its answers travel: numbers and the places they belong to, one replica each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.workers.rewards.scorer import Scored

Rows = Sequence[int] | NDArray[np.int64]
Logps = NDArray[np.float32]
Pairs = Rows | PreferenceBatch
"""Pairs by dataset row, or themselves."""


@dataclass(frozen=True)
class Share:
    """What one replica says of the part that was dealt to it.

    Attributes:
        positions: [n] int64 place of each value among all that were asked for.
        values: [n, ...] float32.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.float32]


def joined(shares: Sequence[Share]) -> NDArray[np.float32]:
    """The values of all replicas in the order in which they were asked for."""
    order = np.argsort(np.concatenate([share.positions for share in shares]))
    return np.concatenate([share.values for share in shares])[order]


class Reference(Protocol):
    """Whoever knows the reference's log-probabilities of dataset rows: a live model or a cache."""

    def log_probs(self, pairs: Rows) -> Logps:
        """Summed response log-probabilities [N, 2] float32 of the pairs in dataset rows [N], in nats."""

    def follow(self, done: int) -> bool:
        """Take up the policy as it is after `done` steps, if it is time; whether it did."""


class Actor(Protocol):
    """The model that is trained."""

    def log_probs(self, pairs: Pairs) -> Logps:
        """Summed response log-probabilities [N, K] float32 of the policy as it is now, in nats."""

    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float]:
        """Learn from the pairs of one step.

        Args:
            step: Iteration, from 0.
            pairs: N pairs of all data-parallel ranks.
            ref_logps: [N, 2] float32 of the reference.

        Returns:
            Metrics, averaged over the step.
        """

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """The metrics of `update` without learning, averaged over the rows; names get the evaluation prefix."""

    def save(self, iteration: int, remembered: Mapping[str, Any], ahead: RolloutBatch | None = None) -> str:
        """Write a checkpoint after `iteration` steps and return its folder.

        Args:
            iteration: Steps done.
            remembered: Plain values that are kept in its metadata.
            ahead: Answers that the next step learns from, where they are there already; they are kept in it too.
        """

    def finish_save(self, wait: bool) -> bool:
        """Make a checkpoint that is written in the background whole, if all its files are written, or `wait` for them.

        Returns:
            Whether it is whole.
        """

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """Continue from a checkpoint, with the parts that are asked for."""


class Rollout(Protocol):
    """The policy as it answers prompts."""

    def generate(self, rows: Rows, first_sample: int) -> RolloutBatch:
        """Answers to the prompts of dataset rows [N]; the first is sample `first_sample` of the run."""

    def update_weights(self, version: int) -> None:
        """Have the actor's weights as they are after `version` iterations."""


class Reward(Protocol):
    """Whoever scores answers."""

    def score(self, rollouts: RolloutBatch) -> Scored:
        """A score for each response, and a sentence for each prompt that could not be scored."""
