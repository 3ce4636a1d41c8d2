"""Failed writes as one sentence: which file, why, and what to change."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_PATH_CHARACTERS = 4096
"""No path of a file system is longer; messages quote less of one, and its parents are not listed."""
_QUOTED_CHARACTERS = 500
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class WriteError(OSError):
    """A file cannot be written; the message is a complete sentence."""


ADVICE = "choose another folder, or make this one writable"


def writable_folder_advice(key: str) -> str:
    """Return what to change where the folder that a setting names cannot be written."""
    return f"set {key} to a folder that can be written"


@contextmanager
def write_errors(path: str | Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn an `OSError` of the block into a `WriteError` that names a file.

    Args:
        path: The file or folder that the block writes.
        advice: What to change, unless the disk is full.

    Raises:
        WriteError: The block raised an `OSError`.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(write_failure(path, error, advice)) from error


def write_failure(path: str | Path, error: OSError, advice: str = "") -> str:
    """Return the sentence for a failed write."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        advice = f"free space there ({_free_space(Path(path))}) or choose a folder on another disk"
    name = str(path)
    name = name if len(name) <= _QUOTED_CHARACTERS else f"{name[:_QUOTED_CHARACTERS]}…"
    return f"{name} cannot be written: {reason}{f'; {advice}' if advice else ''}"


def failure_sentence(error: Exception) -> str:
    """Return the sentence for an error that ends a command: its own, or of the system's the file and the reason."""
    if not isinstance(error, OSError) or isinstance(error, WriteError) or not error.errno or error.filename is None:
        return str(error)
    return f"{error.filename} cannot be read or written: {os.strerror(error.errno)}"


def existing_parent(path: Path) -> Path:
    """Return the path itself, or its nearest parent that exists; names that are too long do not."""
    absolute = Path(os.path.abspath(path)[:MAX_PATH_CHARACTERS])
    return next(folder for folder in (absolute, *absolute.parents) if os.path.exists(folder))


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that a path lies, or would lie, on."""
    return shutil.disk_usage(existing_parent(path)).free


def try_folder(folder: Path, advice: str = ADVICE) -> None:
    """Create a folder if necessary and write a file to it; nothing remains but a folder that was there before.

    Args:
        folder: The folder.
        advice: What to change if it cannot be written.

    Raises:
        WriteError: It cannot be created or written.
    """
    parents = folder.parents if len(str(folder)) <= MAX_PATH_CHARACTERS else ()
    created = [path for path in (folder, *parents) if not os.path.exists(path)]
    with write_errors(folder, advice):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".write_test.{os.getpid()}"
            try:
                probe.write_bytes(b"0")
            finally:
                probe.unlink(missing_ok=True)
        finally:
            for path in created:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def _free_space(path: Path) -> str:
    try:
        return f"{free_bytes(path) / 2**20:.1f} MiB are free"
    except OSError:
        return "its free space is unknown"
