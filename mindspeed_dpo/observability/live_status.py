"""Live status of a command: lines with share and time left below its output on a terminal, log lines elsewhere.

Code that may take long names itself as a phase, `with live_status.phase("evaluation"): …`. Nothing is shown before a
command calls `shown`, so libraries and worker processes stay silent. A thread looks at the phases once a second; the
code in a phase only counts.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mindspeed_dpo.observability.logs import FILE_ONLY
from mindspeed_dpo.observability.phase import Phase, status_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

logger = logging.getLogger(__name__)

FIRST_LINE_S, LINE_INTERVAL_S = 5.0, 30.0
"""Age of a phase at its first log line, and the time between two."""
NESTED_AFTER_S = 0.7
"""Age from which a phase within another has a line on the terminal; shorter ones would only flicker."""
CHECK_INTERVAL_S = 1.0
REFRESHES_PER_S = 4.0


class LiveStatus:
    """The phases of this process, the innermost last."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without a display; `clock` returns seconds from any start."""
        self._clock = clock
        self._phases: list[Phase] = []
        self._durations_s: dict[str, float] = {}
        self._is_shown = False
        self._live: Live | None = None

    @property
    def width(self) -> int | None:
        """Columns of the terminal below whose lines the status is; None without one."""
        return None if self._live is None else self._live.console.width

    @contextmanager
    def shown(self, console: Console | None = None) -> Iterator[None]:
        """Show the phases within the block.

        Args:
            console: Where to; by default standard error. If it is no terminal, phases have log lines only.
        """
        if self._is_shown:
            yield
            return
        self._is_shown, end = True, threading.Event()
        self._live = self._start_live(console)
        reporter = threading.Thread(target=self._report, args=(end,), daemon=True, name="live status")
        reporter.start()
        try:
            yield
        finally:
            end.set()
            reporter.join()
            live, self._live, self._is_shown = self._live, None, False
            if live is not None:
                live.stop()

    @contextmanager
    def phase(self, what: str, total: int | None = None, done: int = 0) -> Iterator[Phase]:
        """Show what the block does.

        Args:
            what: A few words, such as "evaluation"; the duration of the last phase of this name is expected.
            total: What `Phase.done` is when the block is complete; None if that is unknown.
            done: What is complete before the block.
        """
        phase = Phase(what, self._clock, total, done, self._durations_s.get(what))
        self._phases.append(phase)
        try:
            yield phase
        finally:
            self._phases.remove(phase)
        self._durations_s[what] = phase.elapsed_s
        if phase.num_lines:
            logger.info("%s: done in %.1f s", what, phase.elapsed_s, extra=self._log_extra)

    def report_due(self) -> None:
        """Log a line for each phase that is due for one: to the log file, and to the console if that has no display."""
        for phase in tuple(self._phases):
            if phase.has_lines and phase.elapsed_s >= FIRST_LINE_S + phase.num_lines * LINE_INTERVAL_S:
                phase.num_lines += 1
                logger.info("%s", status_line(phase), extra=self._log_extra)

    @property
    def _log_extra(self) -> dict[str, bool]:
        return FILE_ONLY if self._live is not None else {}

    def _report(self, end: threading.Event) -> None:
        while not end.wait(CHECK_INTERVAL_S):
            self.report_due()

    def _start_live(self, console: Console | None) -> Live | None:
        if console is None and not sys.stderr.isatty():
            return None
        # Deferred: only a terminal needs it.
        from rich.console import Console
        from rich.live import Live

        console = console or Console(file=sys.stderr)
        if not console.is_terminal or console.is_dumb_terminal:
            return None
        live = Live(
            console=console,
            get_renderable=self._lines,
            refresh_per_second=REFRESHES_PER_S,
            transient=True,
            # What is written to a file must not appear on the terminal instead.
            redirect_stdout=sys.stdout.isatty(),
        )
        live.start()
        return live

    def _lines(self) -> RenderableType:
        """Return the lines of the phases for the terminal."""
        from rich.text import Text

        shown = [
            phase
            for number, phase in enumerate(tuple(self._phases))
            if number == 0 or phase.elapsed_s >= NESTED_AFTER_S
        ]
        width = self.width or 0
        lines = [status_line(phase, width - 1) for phase in shown]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis", end="")


live_status = LiveStatus()
"""The status of this process."""
