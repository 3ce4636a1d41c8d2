"""The interface between the training of a model and what it is trained for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mindspeed_dpo.algorithms.objective import PairLosses
from mindspeed_dpo.batches import PackedBatch

MicroBatchLosses = Callable[[PackedBatch, Tensor], PairLosses]
"""Maps a micro-batch and the head's output for it to the loss of each pair and the metrics."""


class Criterion(ABC):
    """Losses and metrics of the trained model, on one process."""

    @property
    @abstractmethod
    def needs_step_outputs(self) -> bool:
        """Whether training needs the head's outputs for all pairs of the step beforehand."""

    @abstractmethod
    def begin(self, iteration: int) -> None:
        """Set what depends on the iteration, counted from 0."""

    @abstractmethod
    def of_step(
        self,
        batches: Sequence[PackedBatch],
        outputs: Sequence[Tensor] | None,
        num_pairs: int,
        *,
        is_training: bool,
    ) -> MicroBatchLosses:
        """Return the losses of the micro-batches of a step; a collective over the last stage.

        Args:
            batches: This rank's micro-batches.
            outputs: The head's output for each of them, float32 without gradient: [R, 1 or 5] log-probabilities of
                tokens in nats, or [P, K] scores; empty on all but the last stage, None unless they are needed or known.
            num_pairs: Number of pairs of the step over all ranks.
            is_training: Whether the step trains, rather than evaluates.
        """

    def summary(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return what is logged of metrics that are averaged over all pairs: the same, unless the criterion says."""
        return dict(means)

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Return what is logged of the settings of the last step."""

    def take_largest_logp_difference(self) -> Tensor | float:
        """Return the largest difference to log-probabilities of a rollout since the last call.

        Returns:
            Scalar float32, in nats.
        """
        return 0.0

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return JSON values that a checkpoint holds; a collective."""

    @abstractmethod
    def restore(self, metadata: Mapping[str, Any]) -> None:
        """Take over the values of `state` from the metadata of a checkpoint; those that it lacks are forgotten."""
