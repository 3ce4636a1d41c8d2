"""Atomic replacement of an output folder, which is filled next to its target and renamed when it is complete.

After a crash the target holds its old content, or a folder remains whose name ends in `.unfinished`; never a mixture.
The next write to the same target deletes such a folder, unless the process that fills it is alive, and gives the target
its old content back if that was put aside.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspeed_dpo.storage import folder_replacement
from mindspeed_dpo.storage.folder_replacement import REPLACED, restore_folder
from mindspeed_dpo.storage.process_lock import LockHeldError, ProcessLock
from mindspeed_dpo.storage.write_errors import existing_parent, write_errors
from mindspeed_dpo.weights.errors import WeightsError

_LOCK = ".unfinished.lock"
_REMAINS = (".unfinished", _LOCK, REPLACED, ".part")
"""Endings of the hidden names that are used while writing."""


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that an output folder is free before the work starts.

    Raises:
        WeightsError: The target is or lies in a file or broken link, is a non-empty folder and `overwrite` is off, or
            another process writes to it.
    """
    if target.exists() and not target.is_dir():
        raise WeightsError(f"{target} is a file; give a folder to write to")
    if obstacle := _obstacle(target):
        raise WeightsError(f"{target} cannot be created: {obstacle}; give another --save-dir")
    locks = [_lock_path(target), *(target.glob(f".*{_LOCK}") if target.is_dir() else ())]
    for path in locks:
        if path.exists():
            with _locked(path, target):
                pass
    _restore(target)
    if target.is_dir() and not overwrite and not all(map(_is_remains, target.iterdir())):
        raise WeightsError(f"{target} is not empty; give another --save-dir, or --overwrite to replace its content")


def _obstacle(target: Path) -> str:
    for path in (target, *target.parents):
        if path.is_symlink() and not os.path.exists(path):
            return f"{path} is a link that leads nowhere"
    parent = existing_parent(target)
    return "" if parent.is_dir() else f"{parent} is a file"


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """A new folder next to `target` for the caller to fill; it is removed unless `replace_folder` has renamed it.

    Raises:
        WeightsError: Another process is filling one for the same target.
    """
    folder = target.with_name(f".{target.name}.unfinished")
    parents = [path for path in target.parents if not path.exists()]
    with write_errors(target, "give another --save-dir"):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(_lock_path(target), target):
            restore_folder(target, _aside(target))
            if folder.exists():
                shutil.rmtree(folder)
            with write_errors(target, "give another --save-dir"):
                folder.mkdir()
            try:
                yield folder
            finally:
                if folder.exists():
                    shutil.rmtree(folder)
    finally:
        for parent in parents:
            if not any(parent.iterdir()):
                parent.rmdir()


def replace_folder(folder: Path, target: Path) -> None:
    """Rename a complete folder to `target`, replacing an older folder of that name."""
    folder_replacement.replace_folder(folder, target, _aside(target))


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}{REPLACED}")


def _restore(target: Path) -> None:
    """Put back what a killed process had put aside: the target, or folders within it."""
    within = target.glob(f".*{REPLACED}") if target.is_dir() else ()
    names = [path.name.removeprefix(".").removesuffix(REPLACED) for path in within]
    for folder in [target, *(target / name for name in names)]:
        if _aside(folder).exists():
            with _locked(_lock_path(folder), target):
                restore_folder(folder, _aside(folder))


def _lock_path(target: Path) -> Path:
    return target.with_name(f".{target.name}{_LOCK}")


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    lock = ProcessLock(path)
    try:
        with write_errors(target):
            lock.acquire()
    except LockHeldError as error:
        raise WeightsError(
            f"{target} is being written by {error.holder}; wait for it to end, or give another --save-dir"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _is_remains(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_REMAINS)
