"""The file or folder that was most likely meant by a path that does not exist, as part of a message."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

MAX_NAMES = 10_000
"""Entries of a folder that are compared; data sets may have millions of files in one."""


def nearest_path_advice(path: str | Path) -> str:
    """Return `; did you mean models/tiny?` for a path that does not exist, or "" where nothing beside it is close."""
    wanted = Path(path)
    folder = Path(os.path.expanduser(wanted)).parent
    try:
        names = [entry.name for _, entry in zip(range(MAX_NAMES), folder.iterdir(), strict=False)]
    except OSError:
        return ""
    close = difflib.get_close_matches(wanted.name, names, n=1, cutoff=0.75)
    return f"; did you mean {wanted.with_name(close[0])}?" if close else ""
