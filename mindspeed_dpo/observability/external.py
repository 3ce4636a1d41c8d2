"""Trackers that need a library of their own: begun by name, continued by the id that a small file keeps.

`<output_dir>/trackers/<name>.json` holds the id under which the tracker knows the run and the last step it was told. A
run that is taken up goes on under that id; steps that it does again are not told again, as no tracker takes one back.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mindspeed_dpo.observability.names import metric
from mindspeed_dpo.observability.tracker import Tracker

logger = logging.getLogger(__name__)

STATE_FOLDER = "trackers"
NO_STEP = -1


class TrackerError(ValueError):
    """A tracker did not start_tracker."""


@dataclass(frozen=True)
class TrackerRun:
    """What a tracker is told of a run when it begins.

    Attributes:
        project: Its project, or experiment.
        name: Of the run.
        place: Folder of its local files, or address of its store; "" where there is none.
        config: Resolved settings by section, plain values.
        id: Under which it knows the run already, or None.
    """

    project: str
    name: str
    place: str
    config: Mapping[str, Any]
    id: str | None = None


class ExternalTracker(Tracker, Protocol):
    """A tracker with a library of its own.

    Attributes:
        id: Under which it knows the run.
        errors: What its library raises where it cannot take metrics.
    """

    id: str
    errors: tuple[type[Exception], ...]


class LibraryRunTracker:
    """What trackers have in common whose library hands out a run that logs and finishes."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is pending and end the run."""
        if self._run is not None:
            self._run.finish()
        self._run = None


def _import_wandb() -> type[ExternalTracker]:
    from mindspeed_dpo.observability.wandb import Wandb

    return Wandb


def _import_swanlab() -> type[ExternalTracker]:
    from mindspeed_dpo.observability.swanlab import SwanLab

    return SwanLab


def _import_mlflow() -> type[ExternalTracker]:
    from mindspeed_dpo.observability.mlflow import MLflow

    return MLflow


# Deferred imports: the libraries are optional, and only those of the selected trackers are loaded.
TRACKER_IMPORTS: dict[str, Callable[[], type[ExternalTracker]]] = {
    "wandb": _import_wandb,
    "swanlab": _import_swanlab,
    "mlflow": _import_mlflow,
}
"""Name of a tracker -> function that imports and returns its class."""


def start_tracker(name: str, tracked: TrackerRun, output_dir: Path, completed_steps: int) -> Tracker:
    """Begin a tracker, or go on with what it has of this run.

    Args:
        name: A name of `TRACKER_IMPORTS`.
        tracked: What to tell it.
        output_dir: Of the run.
        completed_steps: Steps done before; with 0 it is a new run.

    Raises:
        TrackerError: It does not start_tracker; says what to change.
    """
    file = output_dir / STATE_FOLDER / f"{name}.json"
    known, last_step = _kept(file) if completed_steps else (None, NO_STEP)
    kind = TRACKER_IMPORTS[name]()
    try:
        tracker: ExternalTracker = kind(TrackerRun(tracked.project, tracked.name, tracked.place, tracked.config, known))
    except (*kind.errors, ImportError, OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise TrackerError(
            f"{name} did not start_tracker ({told}); see docs/monitoring.md, or set use_{name}=false"
        ) from error
    return ResumedTracker(name, tracker, file, last_step)


def _kept(file: Path) -> tuple[str | None, int]:
    """Id and last step, as they were remembered."""
    if not file.is_file():
        return None, NO_STEP
    kept = json.loads(file.read_text(encoding="utf-8"))
    return str(kept["id"]), int(kept["step"])


class ResumedTracker:
    """A tracker that is told each step once, whatever befalls the run, and whose failure does not stop training."""

    def __init__(self, name: str, tracker: ExternalTracker, file: Path, last_step: int) -> None:
        """Go on after `last_step`; remember in `file`."""
        self._name, self._tracker, self._file, self._last_step = name, tracker, file, last_step
        self._has_failed = False
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._remember()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand a step on, unless it was handed on before.

        Raises:
            ValueError: A name is not in the table of metrics.
        """
        for name in metrics:
            metric(name)
        if step <= self._last_step:
            return
        try:
            self._tracker.log(step, metrics)
        except self._tracker.errors as error:
            if not self._has_failed:
                logger.warning("%s did not take step %d, training goes on without it: %s", self._name, step, error)
            self._has_failed = True
            return
        self._last_step = step
        self._remember()

    def close(self) -> None:
        """Let the tracker write what is pending."""
        try:
            self._tracker.close()
        except self._tracker.errors as error:
            logger.warning("%s did not end well: %s", self._name, error)

    def _remember(self) -> None:
        temporary = self._file.with_name(f"{self._file.name}.partial")
        temporary.write_text(json.dumps({"id": self._tracker.id, "step": self._last_step}) + "\n", encoding="utf-8")
        os.replace(temporary, self._file)
