"""Replacement of a folder by two renames, and what a kill between them leaves: the old folder under another name."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

REPLACED = ".replaced"
"""Ending of the name that an old folder has until the new one is in its place."""

logger = logging.getLogger(__name__)


def replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Rename a complete folder to `target`, and delete an older folder of that name.

    After a kill `restore_folder` puts the older folder back if neither has the name.

    Args:
        new: The complete folder, in the same file system.
        target: Its final path.
        aside: Path of the older folder in between.

    Raises:
        OSError: A folder cannot be renamed; the older one is then in its place again.
    """
    restore_folder(target, aside)
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        restore_folder(target, aside)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def restore_folder(target: Path, aside: Path) -> None:
    """Undo a replacement that was interrupted between its renames, or delete the older folder if it was complete.

    No other process may write to `target`.
    """
    if not aside.exists():
        return
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        return
    aside.rename(target)
    logger.warning("a process was killed while it replaced %s; the folder has its earlier content again", target)


def earlier_content(target: Path) -> str:
    """Return the end of a sentence about an absent folder: where its earlier content is; empty if nowhere."""
    for name in (f"{target.name}{REPLACED}", f".{target.name}{REPLACED}"):
        aside = target.with_name(name)
        if aside.is_dir() and not target.exists():
            return f"; a process was killed while it replaced it, and {aside} is the earlier content: rename it back"
    return ""
