"""The folder of a run's own Ray: its sockets and logs, removed at its end, or by the next run if it was killed."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspeed_dpo.controller.local_raylets import SHORT_ROOT, temporary_root
from mindspeed_dpo.processes.driver_link import driver_link
from mindspeed_dpo.storage.process_lock import ProcessLock

logger = logging.getLogger(__name__)

PREFIX, LOCK_FILE = "dpo_ray_", ".run.lock"
# Ray's socket paths are 80 characters longer than this folder's and may have at most 107.
MAX_ROOT_LENGTH = 24
LEAST_BYTES = 1 << 20


@contextmanager
def private_folder() -> Iterator[Path]:
    """Create a folder that no other user can read, and remove it at the end.

    Raises:
        OSError: It cannot be created, or its disk is full.
    """
    root = Path(folder_root())
    remove_abandoned_folders(root)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    driver_link.remove_at_end(str(folder))
    try:
        try_space(folder)
        # Its children do not inherit the lock, so it ends with this process.
        with ProcessLock(folder / LOCK_FILE):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_space(folder: Path) -> None:
    """Write what Ray needs at the least for its first files; without it Ray waits for them until its time is over.

    Raises:
        OSError: The disk is full.
    """
    probe = folder / "space"
    try:
        probe.write_bytes(bytes(LEAST_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def folder_root() -> str:
    """Return the folder under which private folders are created."""
    return temporary_root() if len(temporary_root()) <= MAX_ROOT_LENGTH else SHORT_ROOT


def remove_abandoned_folders(root: Path) -> None:
    """Remove this user's private folders whose run has ended without removing them, as when all of it was killed."""
    for folder in root.glob(f"{PREFIX}*"):
        if not _is_abandoned(folder):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("removed %s, left behind by a killed run", folder)


def _is_abandoned(folder: Path) -> bool:
    lock = folder / LOCK_FILE
    try:
        status = lock.stat()
        # The file is empty until its run holds the lock.
        if status.st_uid != os.getuid() or not status.st_size:
            return False
        with lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    # There is no such file, the lock is held, or the file system has no locks.
    except OSError:
        return False
