"""A polite stop: the first SIGINT or SIGTERM lets the step end and a checkpoint be written, the second ends at once."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Watches for a request to stop while it is entered; `requested` tells."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Only the main thread may watch signals; elsewhere (a test) there is nothing to watch.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        logger.warning("%s: finishing this step and saving; once more ends at once", signal.Signals(number).name)
        for each, handler in self._before.items():
            signal.signal(each, handler)
