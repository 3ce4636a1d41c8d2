"""Waiting for the end of processes, of any parent. Imports nothing that takes time."""

from __future__ import annotations

import os
import select


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
