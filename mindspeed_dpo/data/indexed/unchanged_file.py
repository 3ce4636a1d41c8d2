"""A file that is mapped into memory: whether it still is as it was when it was opened.

Reading a page that the file no longer has ends the process by SIGBUS, so its size is compared before rows are read.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from mindspeed_dpo.untrusted.errors import QuotingError

logger = logging.getLogger(__name__)


class ChangedFileError(QuotingError):
    """Raised for a file that has changed while it is read."""


class UnchangedFile:
    """Identity, size and time of a file when it was opened.

    After a rename over the file, and after its deletion, the mapping still is of the one that was opened.
    """

    def __init__(self, path: Path) -> None:
        """Take note of a file.

        Raises:
            OSError: It does not exist, or cannot be accessed.
        """
        self._path, self._opened = path, path.stat()

    def check_unchanged(self) -> None:
        """Check that the file has its size; one that was written to or touched with the same size is logged once.

        Raises:
            ChangedFileError: It has another size.
        """
        try:
            now = os.stat(self._path)
        except OSError:
            return
        before = self._opened
        if (now.st_ino, now.st_dev) != (before.st_ino, before.st_dev):
            return
        if now.st_size != before.st_size:
            raise ChangedFileError(
                f"{self._path} has changed since it was opened: it had {before.st_size} bytes and has {now.st_size}; "
                "preprocess again, and write to no file that a run reads"
            )
        if now.st_mtime_ns != before.st_mtime_ns:
            self._opened = now
            logger.warning("%s was written to or touched since it was opened; its size is the same", self._path)
