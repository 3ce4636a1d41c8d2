"""Signals that end a process by a fault of its own: written to its log file, and read from there by another process.

Ray reports such a death without its signal.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
from pathlib import Path

from mindspeed_dpo.processes.signal_causes import LIKELY_CAUSES

SIGNALS = {
    "Bus error": signal.SIGBUS,
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Illegal instruction": signal.SIGILL,
    "Floating-point exception": signal.SIGFPE,
    "Floating point exception": signal.SIGFPE,
}
"""What Python writes -> signal; the last one in two spellings of Python's versions."""
_TAIL_BYTES = 1 << 16
_FATAL = re.compile(r"^Fatal Python error: (.+)$", re.MULTILINE)


def record_crash_signals(log_file: Path) -> None:
    """Have Python append the signal and the stack to a log file if this process crashes."""
    # For the life of the process: the handler of the signal writes to the descriptor.
    faulthandler.enable(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), all_threads=False)


def crash_signal(log_file: Path) -> signal.Signals | None:
    """Return the signal with which a log file ends; None where it ends with a message, or cannot be read."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    # Messages begin with their time; one after the crash is that of a later run.
    found = _FATAL.search(tail[tail.rfind("\n[") + 1 :])
    return SIGNALS.get(found[1]) if found else None


def crash_sentence(log_file: Path) -> str:
    """Return how the process of a log file died, such as `the process died of SIGBUS: …`; empty if unknown."""
    number = crash_signal(log_file)
    if number is None:
        return ""
    return f"the process died of {number.name}: {LIKELY_CAUSES.get(number, 'it crashed')}"
