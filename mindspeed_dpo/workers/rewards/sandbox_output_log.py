"""Logs what the user's functions print, a bounded amount of it: a run may print at every step for weeks."""

from __future__ import annotations

import logging
import threading
import time
from typing import IO

logger = logging.getLogger(__name__)

# A line is cut after so many bytes.
LINE_BYTES = 4096
# At most so many bytes are logged within an interval; the log files rotate.
INTERVAL_S = 60.0
INTERVAL_BYTES = 256 * 1024


def log_output(stream: IO[bytes]) -> None:
    """Log the lines of a pipe from a thread until its end; what exceeds the limits is read and dropped."""
    threading.Thread(target=_log_lines, args=(stream,), daemon=True, name="output of functions").start()


def _log_lines(stream: IO[bytes]) -> None:
    budget = OutputBudget()
    with stream:
        while line := stream.readline(LINE_BYTES):
            dropped = budget.take(len(line), time.monotonic())
            if dropped:
                logger.info("%d more bytes were printed and not logged", dropped)
            if budget.is_open:
                logger.info("%s", line.decode("utf-8", errors="replace").rstrip("\n"))


class OutputBudget:
    """Counts what is logged within an interval.

    Attributes:
        is_open: Whether the last line may be logged.
    """

    def __init__(self, num_bytes: int = INTERVAL_BYTES, interval_s: float = INTERVAL_S) -> None:
        """Allow so many bytes within each interval."""
        self._allowed, self._interval_s = num_bytes, interval_s
        self._end_s = 0.0
        self._used = self._dropped = 0
        self.is_open = True

    def take(self, num_bytes: int, now_s: float) -> int:
        """Count a line, and return the bytes dropped in the interval before where a new one begins."""
        dropped = 0
        if now_s >= self._end_s:
            dropped, self._dropped, self._used, self._end_s = self._dropped, 0, 0, now_s + self._interval_s
        self._used += num_bytes
        self.is_open = self._used <= self._allowed
        self._dropped += 0 if self.is_open else num_bytes
        return dropped
