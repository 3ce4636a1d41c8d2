"""The interfaces of metric trackers, the description of a run for external ones, and a composite of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class Tracker(Protocol):
    """Receives the metrics of each step in order, and stores or displays them."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step.

        Args:
            step: Number of the finished step, from 1.
            metrics: Values by the names of `metric_names.py`.
        """

    def close(self) -> None:
        """Flush and close files; a second call does nothing."""


@runtime_checkable
class TextTracker(Protocol):
    """A tracker that also receives texts."""

    def log_text(self, step: int, name: str, text: str) -> None:
        """Log a text of a step.

        Args:
            step: Number of the finished step.
            name: What it is, such as "responses".
            text: Markdown.
        """


def log_text(tracker: Tracker, step: int, name: str, text: str) -> None:
    """Log a text to a tracker that receives texts; others ignore it."""
    if isinstance(tracker, TextTracker):
        tracker.log_text(step, name, text)


class Trackers:
    """Forwards metrics to several trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of one step to every tracker."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Log a text to every tracker that receives texts."""
        for tracker in self._trackers:
            log_text(tracker, step, name, text)

    def close(self) -> None:
        """Close every tracker, also where one of them raises."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.close)


@dataclass(frozen=True)
class TrackerRun:
    """The run as it is described to a tracker.

    Example:
        TrackerRun("my-project", "offline_dpo_trainer_tiny", "outputs/run/wandb", {"training": {"train_iters": 3}})

    Attributes:
        project: Project, or experiment, of the tracker.
        name: Name of the run.
        place: Folder of the tracker's local files, or address of its store; "" if it has neither.
        config: Resolved settings by section, plain values.
        id: The tracker's id of the run if it is continued, or None.
    """

    project: str
    name: str
    place: str
    config: Mapping[str, Any]
    id: str | None = None


class ExternalTracker(Tracker, Protocol):
    """A tracker with a library of its own.

    Attributes:
        id: The tracker's id of the run.
        errors: Exceptions that its library raises if metrics cannot be logged.
    """

    id: str
    errors: tuple[type[Exception], ...]


class LibraryRunTracker:
    """Base class of trackers whose library has a run object with `log` and `finish`."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flush pending metrics and finish the run."""
        if self._run is not None:
            self._run.finish()
        self._run = None
