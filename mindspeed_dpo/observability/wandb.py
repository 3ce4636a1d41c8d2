"""Weights & Biases tracker. The only module that knows wandb."""

from __future__ import annotations

import uuid
from pathlib import Path

import wandb
from wandb.errors import Error

from mindspeed_dpo.observability.external_trackers import LibraryRunTracker, TrackerRun


class Wandb(LibraryRunTracker):
    """Tracker of one W&B run. Where it goes (online, offline, which server) is told by W&B's own variables."""

    errors: tuple[type[Exception], ...] = (Error,)

    def __init__(self, tracked: TrackerRun) -> None:
        """Begin the run, or go on with it."""
        self.id = tracked.id or uuid.uuid4().hex
        Path(tracked.place).mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            project=tracked.project,
            name=tracked.name,
            dir=tracked.place,
            config=dict(tracked.config),
            id=self.id,
            resume="allow",
            # Output stays in the run's own logs, and standard error with the driver.
            settings=wandb.Settings(console="off", silent=True),
        )
        super().__init__(run)
