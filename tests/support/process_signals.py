"""Processes of tests: their end, and their handling of signals. Imports nothing that takes time."""

from __future__ import annotations

import os
import select
import signal


def restore_sigint() -> None:
    """Do not ignore SIGINT in a new process, as programs in the background of a shell and their descendants do."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ends(pid: int, within_s: float) -> bool:
    """Whether a process, of any parent, has ended by then; one that is not reaped yet counts as ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)
