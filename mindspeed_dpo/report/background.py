"""Keeps a run's report up to date from a process of its own, so that no step waits for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import mindspeed_dpo
from mindspeed_dpo.observability.metric_names import EVAL_PREFIX

logger = logging.getLogger(__name__)

SHARE_OF_TIME = 0.01
"""Largest share of one core that is spent on reports while a run trains."""
SHORTEST_PAUSE_S = 20.0
LAST_REPORT_S = 60.0
"""Limit for the report at the end of a run."""


class BackgroundReport:
    """Tracker that has the page written: after the first step, then at the interval of the log and at evaluations.

    The page before is finished first, and the pauses between two are so long that writing takes at most `SHARE_OF_TIME`
    of one core. A page that cannot be written is reported once; training continues.

    Args:
        folder: Folder of the run.
        interval: Number of steps between two log lines.
        clock: Seconds from any start.
    """

    def __init__(self, folder: Path, *, interval: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._interval, self._clock = folder, interval, clock
        self._process: subprocess.Popen[str] | None = None
        self._next_s = clock()
        self._has_failed = self._is_closed = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Start writing the page if it is due; this waits for nothing."""
        if self._process is not None and self._process.poll() is not None:
            self._finish(self._process)
        is_evaluated = any(name.startswith(EVAL_PREFIX) for name in metrics)
        if self._process is None and self._clock() >= self._next_s and (is_evaluated or step % self._interval == 0):
            self._start()

    def close(self) -> None:
        """Write the page once more, with all that the run has logged, and wait until it is there."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._process is not None:
            self._await(self._process)
        self._start()
        if self._process is not None:
            self._await(self._process)

    def _start(self) -> None:
        package_root = str(Path(mindspeed_dpo.__file__).parents[1])
        search = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mindspeed_dpo.report", str(self._folder)],
                env={**os.environ, "PYTHONPATH": search},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for the run, which then has the last page written
            )
        except OSError as error:
            self._report_failure(str(error))

    def _await(self, process: subprocess.Popen[str]) -> None:
        try:
            process.wait(LAST_REPORT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._finish(process)

    def _finish(self, process: subprocess.Popen[str]) -> None:
        """Take note of an ended process: when the next may start, or that it failed."""
        output, errors = process.communicate()
        self._process = None
        if process.returncode == 0:
            self._next_s = self._clock() + max(float(output) / SHARE_OF_TIME, SHORTEST_PAUSE_S)
            return
        self._next_s = self._clock() + SHORTEST_PAUSE_S
        lines = errors.strip().splitlines()
        self._report_failure(lines[-1] if lines else f"its process ended with {process.returncode}")
        logger.debug("output of the process that writes the report:\n%s", errors)

    def _report_failure(self, reason: str) -> None:
        if not self._has_failed:
            effect = "" if self._is_closed else ", training continues"
            logger.warning("the report of this run was not written%s: %s", effect, reason)
        self._has_failed = True
