"""A file that is being written, and whose digest is computed from the bytes as they go out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from mindspeed_dpo.storage.digests import BlockHasher, FileDigest

PIECE_BYTES = 1 << 18
"""Bytes that are digested and then written, while they are in the processor's cache: memory is read once for both."""


class DigestingFile(io.BufferedIOBase):
    """A file that is written from start to end and computes its digest meanwhile.

    Attributes:
        path: Path of the file.
        error: The first error of a write. Writers in C++ may replace it by one that does not name the cause.
    """

    def __init__(self, path: Path, raw: BinaryIO | None = None) -> None:
        """Create a file, or continue with a stream that is open for writing."""
        self.path = path
        self.error: OSError | None = None
        self._raw: BinaryIO = path.open("wb") if raw is None else raw
        self._hasher = BlockHasher()

    @property
    def digest(self) -> FileDigest:
        """Digest of the bytes written so far."""
        return self._hasher.result()

    def writable(self) -> bool:
        """Return True, as bytes can be written."""
        return True

    def write(self, content: Any) -> int:
        """Write bytes; an error is also stored in `error`."""
        view = memoryview(content).cast("B")
        for start in range(0, len(view), PIECE_BYTES):
            piece = view[start : start + PIECE_BYTES]
            self._hasher.update(piece)
            self._write(piece)
        return len(view)

    def _write(self, view: memoryview) -> None:
        try:
            self._raw.write(view)
        except OSError as error:
            self.error = self.error or OSError(error.errno, error.strerror, str(self.path))
            raise

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._hasher.result().num_bytes

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._raw.fileno()

    def flush(self) -> None:
        """Write buffered bytes."""
        if not self._raw.closed:
            self._raw.flush()

    def sync(self) -> None:
        """Flush the file to the disk."""
        self.flush()
        os.fsync(self.fileno())

    def close(self) -> None:
        """Close the file."""
        self._raw.close()
        super().close()
