"""The interface of metric trackers, and a composite of several trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol


class Tracker(Protocol):
    """Receives the metrics of each step in order, and stores or displays them."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step.

        Args:
            step: Number of the finished step, from 1.
            metrics: Values by the names of `names.py`.
        """

    def close(self) -> None:
        """Flush and close files; a second call does nothing."""


class Trackers:
    """Forwards metrics to several trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step to every tracker."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def close(self) -> None:
        """Close every tracker, also where one of them raises."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.close)
