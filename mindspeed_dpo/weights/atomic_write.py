"""Atomic replacement of folders and files: each is written next to its target and renamed when it is complete.

After a crash the target holds its old content, or a folder remains whose name ends in `.unfinished`; never a mixture.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspeed_dpo.weights.errors import WeightsError


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that an output folder is free before the work starts.

    Raises:
        WeightsError: The target is a file, or a non-empty folder and `overwrite` is off.
    """
    if target.exists() and not target.is_dir():
        raise WeightsError(f"{target} is a file; give a folder to write to")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise WeightsError(f"{target} is not empty; give another --save-dir, or --overwrite to replace its content")


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A new folder next to `target` for the caller to fill; it is removed unless `replace_folder` has renamed it."""
    folder = target.with_name(f".{target.name}.unfinished")
    if folder.exists():
        shutil.rmtree(folder)
    parent_is_new = not target.parent.exists()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)
        if parent_is_new and not any(target.parent.iterdir()):
            target.parent.rmdir()


def replace_folder(folder: Path, target: Path) -> None:
    """Rename a complete folder to `target`, replacing an older folder of that name."""
    older = target.with_name(f".{target.name}.replaced")
    if older.exists():
        shutil.rmtree(older)
    if target.exists():
        target.rename(older)
    folder.rename(target)
    if older.exists():
        shutil.rmtree(older)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a small text file, either completely or not at all."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
