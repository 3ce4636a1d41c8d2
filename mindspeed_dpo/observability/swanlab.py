"""SwanLab tracker. The only module that knows swanlab."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import swanlab
from swanlab.exceptions import ApiError, AuthenticationError, DataStoreError

from mindspeed_dpo.observability.external import Tracked

_ID_LENGTH = 21


class SwanLab:
    """Tracker of one SwanLab run. Where it goes (online, offline) is told by SwanLab's own variables."""

    errors: tuple[type[Exception], ...] = (ApiError, AuthenticationError, DataStoreError, RuntimeError)

    def __init__(self, tracked: Tracked) -> None:
        """Begin the run, or go on with it; offline, SwanLab makes a new folder for the same id."""
        self.id = tracked.id or uuid.uuid4().hex[:_ID_LENGTH]
        self._run: Any = swanlab.init(
            project=tracked.project,
            name=tracked.name,
            log_dir=tracked.place,
            config=dict(tracked.config),
            id=self.id,
            resume="allow",
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is pending and end the run."""
        if self._run is not None:
            self._run.finish()
        self._run = None
