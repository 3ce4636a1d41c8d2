"""A lock on a path that ends with the process that holds it, however that process ends.

It is a file with an advisory lock of the kernel (`flock`), which also works over NFS. The file names its holder; it is
deleted when the lock is released, and one that a killed process has left behind is taken over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_MAX_HOLDER_BYTES = 4096

logger = logging.getLogger(__name__)


class LockHeldError(ValueError):
    """Another process holds the lock.

    Attributes:
        holder: Description of it, such as `process 4242 on node7 since 2026-11-30 17:40:38`.
    """

    def __init__(self, path: Path, holder: str) -> None:
        self.holder = holder
        super().__init__(f"{path} is held by {holder}")

    def __reduce__(self) -> tuple[type[ValueError], tuple[str]]:
        return (ValueError, (str(self),))


class ProcessLock:
    """A lock on a path; as a context manager it is held within the block."""

    def __init__(self, path: Path) -> None:
        """Name the file of the lock, whose folder must exist."""
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockHeldError: Another process, or another lock of this one, holds it.
            OSError: The file cannot be created.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._lock(descriptor)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                os.close(descriptor)
                raise LockHeldError(self.path, holder) from None
            if self._is_current(descriptor):
                self._descriptor = descriptor
            else:
                # The holder has released it, and deleted this file, between `open` and `flock`.
                os.close(descriptor)
        with suppress(OSError):  # on a full disk the holder remains unnamed
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(_this_process()).encode(), 0)

    def release(self) -> None:
        """Release the lock and delete its file; without effect if it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(descriptor)

    def holder(self) -> str | None:
        """Return a description of the process that holds the lock, or None; no file is created.

        Raises:
            OSError: The file cannot be opened.
        """
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _read_holder(file.fileno())
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
        return None

    def __enter__(self) -> ProcessLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logger.warning(
                "%s: this file system has no locks, so a second process that writes here is not noticed", self.path
            )

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False


def _this_process() -> dict[str, object]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now().isoformat(sep=" ", timespec="seconds"),
    }


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _MAX_HOLDER_BYTES, 0))
        return f"process {int(holder['pid'])} on {holder['host']} since {holder['since']}"
    except (KeyError, TypeError, ValueError):
        return "another process"
