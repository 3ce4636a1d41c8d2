"""A polite stop: the first SIGINT or SIGTERM lets the step end and a checkpoint be written, the second ends at once.

A signal may come while the main thread is in the middle of anything, a write to a buffered file among them, and such a
write must not be entered again. So the handler logs nothing: it hands one line to the system and leaves the log to the
main flow.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from mindspeed_dpo.observability.logs import SHOWN

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulShutdown:
    """Watches for a request to stop while it is entered; `requested` tells."""

    def __init__(self) -> None:
        self.requested = False
        self._unlogged: list[str] = []
        self._before: dict[int, Any] = {}
        self._stderr = _stderr_descriptor()

    def log(self) -> None:
        """Log the request, once; from the main flow only."""
        while self._unlogged:
            logger.warning("%s", self._unlogged.pop(), extra=SHOWN)

    def __enter__(self) -> GracefulShutdown:
        # Only the main thread may watch signals; elsewhere (a test) there is nothing to watch.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()
        self.log()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._put_back()
        self.requested = True
        told = f"{signal.Signals(number).name}: finishing this step and saving; once more ends at once"
        self._unlogged.append(told)
        with suppress(OSError):  # the terminal is gone; training is not
            os.write(self._stderr, f"{told}\n".encode())

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _stderr_descriptor() -> int:
    """Of standard error as the process began with, or -1 where there is none: it may be another file's by now."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
    except (OSError, ValueError):
        return -1
