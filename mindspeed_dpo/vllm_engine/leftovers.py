"""The files that vLLM's processes would leave behind when they are killed: segments of shared memory.

Both ends of the engine import this module: it needs the standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress

_SEGMENT = re.compile(r" (/dev/shm/\S+)$")


def shared_segments(pids: Iterable[int]) -> set[str]:
    """Return the named segments of shared memory that processes map; those of an engine are its own."""
    segments: set[str] = set()
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            segments.update(match[1] for line in maps if (match := _SEGMENT.search(line.rstrip("\n"))))
    return segments


def remove_files(paths: Iterable[str]) -> None:
    """Remove files that may be gone already."""
    for path in paths:
        with suppress(OSError):
            os.unlink(path)
