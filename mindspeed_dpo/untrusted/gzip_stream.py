"""The bytes that a gzip file holds, of one member or several, with a bound on what it unpacks to.

Bytes that follow a whole member and are no gzip data cost nothing before them: reading ends there, and the stream says
so. `gzip` of Python raises an error instead, which can cost the last line, and accepts any amount of output.
"""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

MAX_RATIO = 500
"""Limit for the bytes that one byte of a file unpacks to; those of texts are 3 to 20, of repeated rows up to 300."""
FREE_BYTES = 1 << 28
"""256 MiB that a file of any size may unpack to."""
_BLOCK_BYTES = 1 << 16
_MAGIC, _GZIP_FORMAT = b"\x1f\x8b", 31


class GzipStream(io.RawIOBase):
    """The unpacked bytes of a gzip file; for use within `io.BufferedReader`.

    Reading raises `EOFError` for a file that ends within a member, and `gzip.BadGzipFile` or `zlib.error` for a damaged
    one, or one that unpacks to too much.

    Attributes:
        unread: Where bytes begin that are no gzip data, as a position in the file; None if there are none.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._member = zlib.decompressobj(_GZIP_FORMAT)
        self._packed = b""
        self._num_packed = self._num_unpacked = 0
        self.unread: int | None = None

    def readable(self) -> bool:
        """Return True, as bytes can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Unpack up to the length of a buffer, and return the number of bytes; 0 at the end.

        Raises:
            EOFError: The file ends within a member.
        """
        view = memoryview(buffer).cast("B")
        while self.unread is None:
            if self._member.eof and not self._next_member():
                break
            if not self._packed and not self._fill():
                raise EOFError("the file ends before its data")
            unpacked = self._member.decompress(self._packed, len(view))
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if unpacked:
                self._count(len(unpacked))
                view[: len(unpacked)] = unpacked
                return len(unpacked)
        return 0

    def _next_member(self) -> bool:
        """Begin the member that follows; return False if none does. Zeros between members fill blocks of tapes."""
        self._packed = self._packed.lstrip(b"\0")
        while len(self._packed) < len(_MAGIC) and self._fill():
            self._packed = self._packed.lstrip(b"\0")
        if self._packed.startswith(_MAGIC):
            self._member = zlib.decompressobj(_GZIP_FORMAT)
            return True
        if self._packed:
            self.unread = self._num_packed - len(self._packed)
        return False

    def _fill(self) -> bool:
        block = self._file.read(_BLOCK_BYTES)
        self._packed += block
        self._num_packed += len(block)
        return bool(block)

    def _count(self, num_bytes: int) -> None:
        self._num_unpacked += num_bytes
        if self._num_unpacked > FREE_BYTES + MAX_RATIO * self._num_packed:
            raise gzip.BadGzipFile(f"it unpacks to more than {MAX_RATIO} times its size")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
