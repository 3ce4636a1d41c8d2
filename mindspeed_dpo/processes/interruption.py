"""Ctrl-C and SIGTERM end a command that has no supervisor with one sentence, also while it imports its libraries.

Python's KeyboardInterrupt would print a traceback, and SIGTERM would leave unfinished files behind. This module imports
no other library, so that a script can call it before the imports that take seconds.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mindspeed_dpo.processes.exit_codes import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_on_signals(program: str) -> None:
    """Let the first SIGINT or SIGTERM end this process in order, with exit code 130, and the second one at once."""

    def end(number: int, frame: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        sys.stderr.write(f"{program}: interrupted\n")
        raise SystemExit(INTERRUPTED)

    for number in SIGNALS:
        signal.signal(number, end)


@contextmanager
def ended_by_signals(program: str) -> Iterator[None]:
    """Do the same within the block; in a thread other than the main one, which receives no signals, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    end_on_signals(program)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def keyboard_interrupts() -> Iterator[None]:
    """Let Ctrl-C raise Python's KeyboardInterrupt within the block again, where it is how a command is meant to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
