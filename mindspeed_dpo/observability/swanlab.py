"""SwanLab tracker. The only module that imports swanlab."""

from __future__ import annotations

import uuid

import swanlab
from swanlab.exceptions import ApiError, AuthenticationError, DataStoreError

from mindspeed_dpo.observability.tracker import LibraryRunTracker, TrackerRun

_ID_LENGTH = 21


class SwanLab(LibraryRunTracker):
    """Tracker of one SwanLab run. SwanLab's environment variables select online or offline mode."""

    errors: tuple[type[Exception], ...] = (ApiError, AuthenticationError, DataStoreError, RuntimeError)

    def __init__(self, tracked: TrackerRun) -> None:
        """Start or resume the run; offline, SwanLab creates a new folder for the same id."""
        self.id = tracked.id or uuid.uuid4().hex[:_ID_LENGTH]
        run = swanlab.init(
            project=tracked.project,
            name=tracked.name,
            log_dir=tracked.place,
            config=dict(tracked.config),
            id=self.id,
            resume="allow",
        )
        super().__init__(run)
