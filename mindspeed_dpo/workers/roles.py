"""What a role can be asked, and how its answers travel: numbers for the rows they belong to, one replica each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = Sequence[int] | NDArray[np.int64]
Logps = NDArray[np.float32]


class Reference(Protocol):
    """Whoever knows the reference's log-probabilities: a live model or a cache."""

    def log_probs(self, rows: Rows) -> Logps:
        """Summed response log-probabilities [N, 2] float32 of dataset rows [N], in nats."""


class Actor(Protocol):
    """The model that is trained."""

    def log_probs(self, rows: Rows) -> Logps:
        """As `Reference.log_probs`, of the policy as it is now."""

    def update(self, step: int, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """Learn from the pairs of one step.

        Args:
            step: Optimizer step, from 0.
            rows: [N] dataset rows of all data-parallel ranks.
            ref_logps: [N, 2] float32 of the reference.

        Returns:
            Metrics, averaged over the step.
        """

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """The metrics of `update` without learning, averaged over the rows; names get the evaluation prefix."""

    def save(self, iteration: int) -> str:
        """Write a checkpoint after `iteration` steps and return its folder."""

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """Continue from a checkpoint, with the parts that are asked for."""
