"""The interface between the training of a model and what it is trained for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from mindspeed_dpo.algorithms.objective import PairLosses
from mindspeed_dpo.batches import PackedBatch

MicroBatchLosses = Callable[[PackedBatch, Tensor], PairLosses]
"""Maps a micro-batch and the head's output for it to the loss of each pair and the metrics."""


class Criterion(Protocol):
    """Losses and metrics of the trained model, on one process."""

    @property
    def needs_step_outputs(self) -> bool:
        """Whether training needs the head's outputs for all pairs of the step beforehand."""

    def begin(self, iteration: int) -> None:
        """Set what depends on the iteration, counted from 0."""

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
            outputs: The head's output for each of them, without gradient; empty on all but the last stage, None unless
                they are needed or known.
            num_pairs: Number of pairs of the step over all ranks.
            is_training: Whether the step trains, rather than evaluates.
        """

    def metrics(self) -> dict[str, float]:
        """Return what is logged of the settings of the last step."""

    def state(self) -> dict[str, Any]:
        """Return JSON values that a checkpoint holds; a collective."""

    def restore(self, metadata: Mapping[str, Any]) -> None:
        """Take over the values of `state` from the metadata of a checkpoint; those that it lacks are forgotten."""
