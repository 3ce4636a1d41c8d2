"""What every tracker of metrics can do, and several trackers used as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class Tracker(Protocol):
    """Takes the metrics of each step, in order, and keeps or shows them."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of one step.

        Args:
            step: Number of the finished step, from 1.
            metrics: Values by the names of `names.py`.
        """

    def close(self) -> None:
        """Write what is pending and let go of files; a second call does nothing."""


class Trackers:
    """Several trackers as one."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand the metrics to every tracker."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def close(self) -> None:
        """Close every tracker."""
        for tracker in self._trackers:
            tracker.close()
