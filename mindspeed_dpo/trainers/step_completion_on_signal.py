"""Graceful shutdown: the first SIGINT or SIGTERM finishes the step and saves a checkpoint, the second one terminates.

A signal may arrive while the main thread is inside a buffered write, which is not reentrant. So the handler does not
log: it writes one line with a system call, and the training loop logs it later.
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

from mindspeed_dpo.observability.logs import FILE_ONLY
from mindspeed_dpo.processes.driver_link import driver_link

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulShutdown:
    """Handles signals while it is entered; `requested` is True once a shutdown was requested."""

    def __init__(self) -> None:
        self.requested = False
        self._unlogged: list[str] = []
        self._before: dict[int, Any] = {}
        self._stderr = _stderr_descriptor()

    def log(self) -> None:
        """Log the request, once; never called from a signal handler."""
        while self._unlogged:
            logger.warning("%s", self._unlogged.pop(), extra=FILE_ONLY)

    def __enter__(self) -> GracefulShutdown:
        # Python allows signal handlers in the main thread only; in others (tests) signals are not handled.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
            for number in SIGNALS:
                signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_handlers()
        self.log()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self._restore_handlers()
        self.requested = True
        driver_link.announce_graceful_stop()
        message = f"{signal.Signals(number).name}: finishing this step and saving; a second signal terminates at once"
        self._unlogged.append(message)
        with suppress(OSError):  # the terminal is closed; training continues
            os.write(self._stderr, f"{message}\n".encode())

    def _restore_handlers(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _stderr_descriptor() -> int:
    """Return the descriptor of the process's original standard error, or -1 if it is closed."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else -1
    except (OSError, ValueError):
        return -1
