"""Put finished folders in place: a folder is written beside its target and moved there whole.

A crash leaves the old content, or a folder whose name says that it is unfinished; never a mixture.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspeed_dpo.weights.errors import WeightsError


def check_target(target: Path, *, overwrite: bool) -> None:
    """Stop before work is done where the result would meet older files.

    Raises:
        WeightsError: The target is a file, or a folder with content and `overwrite` is off.
    """
    if target.exists() and not target.is_dir():
        raise WeightsError(f"{target} is a file; give a folder to write to")
    if target.is_dir() and not overwrite and any(target.iterdir()):
        raise WeightsError(f"{target} is not empty; give another --save-dir, or --overwrite to replace what it holds")


@contextmanager
def unfinished_folder(final: Path) -> Iterator[Path]:
    """A new folder beside `final`, for the caller to fill; nothing of it stays if the filling fails."""
    folder = final.with_name(f".{final.name}.unfinished")
    if folder.exists():
        shutil.rmtree(folder)
    parent_is_new = not final.parent.exists()
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)
        if parent_is_new and not any(final.parent.iterdir()):
            final.parent.rmdir()


def put_in_place(folder: Path, final: Path) -> None:
    """Give a filled folder its final name, replacing an older folder of that name."""
    older = final.with_name(f".{final.name}.replaced")
    if older.exists():
        shutil.rmtree(older)
    if final.exists():
        final.rename(older)
    folder.rename(final)
    if older.exists():
        shutil.rmtree(older)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
