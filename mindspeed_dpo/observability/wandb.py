"""Weights & Biases tracker. The only module that knows wandb."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from wandb.errors import Error

from mindspeed_dpo.observability.external import Tracked


class Wandb:
    """Tracker of one W&B run. Where it goes (online, offline, which server) is told by W&B's own variables."""

    errors: tuple[type[Exception], ...] = (Error,)

    def __init__(self, tracked: Tracked) -> None:
        """Begin the run, or go on with it."""
        self.id = tracked.id or uuid.uuid4().hex
        Path(tracked.place).mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=tracked.project,
            name=tracked.name,
            dir=tracked.place,
            config=dict(tracked.config),
            id=self.id,
            resume="allow",
            # Output stays in the run's own logs, and standard error with the driver.
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is pending and end the run."""
        if self._run is not None:
            self._run.finish()
        self._run = None
