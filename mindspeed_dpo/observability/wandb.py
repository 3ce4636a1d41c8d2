"""Weights & Biases tracker. The only module that imports wandb."""

from __future__ import annotations

import uuid
from pathlib import Path

import wandb
from wandb.errors import Error

from mindspeed_dpo.observability.tracker import LibraryRunTracker, TrackerRun


class Wandb(LibraryRunTracker):
    """Tracker of one W&B run. W&B's environment variables select online or offline mode and the server."""

    errors: tuple[type[Exception], ...] = (Error,)

    def __init__(self, tracked: TrackerRun) -> None:
        """Start or resume the run."""
        self.id = tracked.id or uuid.uuid4().hex
        Path(tracked.place).mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=tracked.project,
            name=tracked.name,
            dir=tracked.place,
            config=dict(tracked.config),
            id=self.id,
            resume="allow",
            # Console output is already in the log files of the run.
            settings=wandb.Settings(console="off", silent=True),
        )
        super().__init__(run)
