"""Atomic replacement of a small text file: after a crash it has its old or its new content, never a mixture."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file next to its target, flush it to the disk and rename it; nothing remains if that fails.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        write_text_durably(partial, text)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text_durably(path: Path, text: str) -> None:
    """Write a text file and flush it to the disk, so that a rename after it survives a power failure.

    Raises:
        OSError: It cannot be written.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
