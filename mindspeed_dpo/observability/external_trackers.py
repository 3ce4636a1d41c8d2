"""Trackers with a library of their own: started by name, and continued under the same id when a run resumes.

`<output_dir>/trackers/<name>.json` holds the tracker's id of the run and the last step that was logged. A resumed run
continues under that id. Steps that it repeats are not logged again, because trackers cannot replace a step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindspeed_dpo.observability.metric_names import metric
from mindspeed_dpo.observability.tracker import ExternalTracker, Tracker, TrackerRun
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object

logger = logging.getLogger(__name__)

STATE_FOLDER = "trackers"
NO_STEP = -1


class TrackerError(ValueError):
    """A tracker did not start."""


def _import_wandb() -> Any:
    from mindspeed_dpo.observability.wandb import Wandb

    return Wandb


def _import_swanlab() -> Any:
    from mindspeed_dpo.observability.swanlab import SwanLab

    return SwanLab


def _import_mlflow() -> Any:
    from mindspeed_dpo.observability.mlflow import MLflow

    return MLflow


# Deferred imports: the libraries are optional, and only those of the selected trackers are loaded.
TRACKER_IMPORTS: dict[str, Callable[[], Any]] = {
    "wandb": _import_wandb,
    "swanlab": _import_swanlab,
    "mlflow": _import_mlflow,
}
"""Name of a tracker -> function that imports and returns its class, an `ExternalTracker`."""


def start_tracker(name: str, tracked: TrackerRun, output_dir: Path, completed_steps: int) -> Tracker:
    """Start a tracker, or continue its record of this run.

    Args:
        name: A name of `TRACKER_IMPORTS`.
        tracked: The run.
        output_dir: Output directory of the run.
        completed_steps: Steps completed by an earlier run; 0 for a new run.

    Raises:
        TrackerError: The tracker does not start; the message says what to change.
    """
    file = output_dir / STATE_FOLDER / f"{name}.json"
    run_id, last_step = _read_state(file) if completed_steps else (None, NO_STEP)
    kind = TRACKER_IMPORTS[name]()
    try:
        tracker: ExternalTracker = kind(replace(tracked, id=run_id))
    except (*kind.errors, ImportError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TrackerError(
            f"{name} did not start ({reason}); see docs/monitoring.md, or set use_{name}=false"
        ) from error
    return ResumedTracker(name, tracker, file, last_step)


def _read_state(file: Path) -> tuple[str | None, int]:
    """Return the saved id and last step.

    Raises:
        TrackerError: The file is damaged.
    """
    if not file.is_file():
        return None, NO_STEP
    with reraised_as(TrackerError, "delete it to log to a new run of the tracker"):
        state = read_json_object(file)
        return state.text("id"), state.integer("step")


class ResumedTracker:
    """Logs each step to a tracker once, even if the run resumes; a failure of the tracker does not stop training."""

    def __init__(self, name: str, tracker: ExternalTracker, file: Path, last_step: int) -> None:
        """Continue after `last_step` and save the state in `file`."""
        self._name, self._tracker, self._file, self._last_step = name, tracker, file, last_step
        self._has_failed = False
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._save_state()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log a step, unless it was logged before.

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
                logger.warning("%s did not log step %d, training continues: %s", self._name, step, error)
            self._has_failed = True
            return
        self._last_step = step
        self._save_state()

    def close(self) -> None:
        """Flush and close the tracker."""
        try:
            self._tracker.close()
        except self._tracker.errors as error:
            logger.warning("%s did not close: %s", self._name, error)

    def _save_state(self) -> None:
        with write_errors(self._file):
            write_text_atomically(self._file, json.dumps({"id": self._tracker.id, "step": self._last_step}) + "\n")
