"""Reference log-probabilities on disk: one float64 sum per response, in a file named by a fingerprint of its inputs.

The fingerprint covers weights, data and settings, so changed inputs lead to another file. A file is a sequence of
chunks, each with row numbers, values and a digest. Chunks are appended as the values are computed, so an interrupted
computation is continued, and a run that reads few rows stores few. A damaged chunk is reported and its rows are
computed again; the chunks after it still count. Files of version 2, which hold all rows at once, are read; those of
version 1 are not, as their float32 sums had an error that grew with the length of a response.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.storage.digests import ALGORITHM, digest_of
from mindspeed_dpo.storage.write_errors import writable_folder_advice, write_errors
from mindspeed_dpo.untrusted.text_files import has_file

logger = logging.getLogger(__name__)

VERSION = 3
"""Version of the file format; raise it, or that of the fingerprint, when the sums change."""
_MAGIC = b"DPOREFLP"
_HEADER = struct.Struct("<8sQ16s")
"""Magic, number of rows, and digest of row numbers and values in hexadecimal digits."""
_ROW_BYTES = 8 + 16
_CHECKSUM_BYTES = 32
CACHE_ADVICE = writable_folder_advice("reference_cache_dir")


@dataclass(frozen=True)
class CachedRows:
    """The cached values of a dataset.

    Example: two rows, of which the first is computed.

        CachedRows(values=array([[-20.0, -31.0], [0.0, 0.0]]), is_present=array([True, False]))

    Attributes:
        values: [rows, 2] float64, in nats; zeros where there is none.
        is_present: [rows] bool.
    """

    values: NDArray[np.float64]
    is_present: NDArray[np.bool_]

    @classmethod
    def empty(cls, num_rows: int) -> CachedRows:
        """Return the values of a dataset of which no row is computed."""
        return cls(np.zeros((num_rows, 2)), np.zeros(num_rows, bool))

    def store(self, rows: NDArray[np.int64], values: NDArray[np.floating]) -> None:
        """Set the values [n, 2], floating dtype, in nats, of rows [n]."""
        self.values[rows] = values
        self.is_present[rows] = True


class ReferenceCache:
    """A file of cached log-probabilities."""

    def __init__(self, folder: str | Path, fingerprint: str, num_rows: int) -> None:
        """Locate a cache.

        Args:
            folder: Folder of the caches.
            fingerprint: Fingerprint of all inputs of the values.
            num_rows: Number of rows of the dataset.
        """
        self.path = Path(folder) / f"{fingerprint}.v{VERSION}.ref_logps"
        self._earlier = Path(folder) / f"{fingerprint}.v2.ref_logps"
        self._first_version = Path(folder) / f"{fingerprint}.ref_logps"
        self._num_rows = num_rows

    def read(self) -> CachedRows:
        """Return the rows that are stored and undamaged."""
        cached = CachedRows.empty(self._num_rows)
        if has_file(self._earlier):
            self._read_earlier(cached)
        if has_file(self.path):
            for rows, values in self._chunks(self.path.read_bytes()):
                cached.store(rows, values)
        elif self._first_version.is_file() and not self._earlier.is_file():
            reason = "%s was written by an earlier version with less exact sums; computing the reference again"
            logger.warning(reason, self._first_version)
        return cached

    def append(self, rows: NDArray[np.int64], values: NDArray[np.floating]) -> None:
        """Append a chunk: values [n, 2], floating dtype, in nats, of rows [n].

        One write per chunk: runs that compute the same values at the same time append complete chunks.

        Raises:
            WriteError: The file cannot be written; the chunks before are unchanged.
        """
        payload = np.ascontiguousarray(rows, "<i8").tobytes() + np.ascontiguousarray(values, "<f8").tobytes()
        chunk = _HEADER.pack(_MAGIC, len(rows), digest_of(payload).encode()) + payload
        with write_errors(self.path, CACHE_ADVICE):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                written = os.write(descriptor, chunk)
                if written < len(chunk):
                    # The disk filled up in the middle; the next write reports why.
                    os.write(descriptor, chunk[written:])
            finally:
                os.close(descriptor)

    def _chunks(self, content: bytes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Yield row numbers [n] and values [n, 2] of every undamaged chunk."""
        position = 0
        while position < len(content):
            chunk = self._chunk_at(content, position)
            if isinstance(chunk, str):
                following = content.find(_MAGIC, position + 1)
                end = len(content) if following < 0 else following
                logger.warning(
                    "%s is damaged: bytes %d to %d %s; computing their rows again", self.path, position, end - 1, chunk
                )
                position = end
                continue
            yield chunk
            position += _HEADER.size + len(chunk[0]) * _ROW_BYTES

    def _chunk_at(self, content: bytes, position: int) -> tuple[NDArray[np.int64], NDArray[np.float64]] | str:
        """Return the row numbers and values of the chunk at a position, or why it is invalid."""
        start = position + _HEADER.size
        if start > len(content):
            return "are an unfinished chunk"
        magic, count, stored = _HEADER.unpack_from(content, position)
        payload = memoryview(content)[start : start + count * _ROW_BYTES] if count <= self._num_rows else b""
        if magic != _MAGIC or len(payload) != count * _ROW_BYTES:
            return "are not a complete chunk"
        if (actual := digest_of(payload)) != (expected := stored.decode("ascii", "replace")):
            return f"were written with the {ALGORITHM} digest {expected} and now have {actual}"
        rows = np.frombuffer(payload, "<i8", count)
        if count and not 0 <= rows.min() <= rows.max() < self._num_rows:
            return f"name rows of another dataset than one of {self._num_rows} rows"
        return rows, np.frombuffer(payload, "<f8", 2 * count, 8 * count).reshape(count, 2)

    def _read_earlier(self, cached: CachedRows) -> None:
        """Read a file of version 2: a SHA-256 checksum and the values of all rows."""
        content = self._earlier.read_bytes()
        checksum, payload = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        actual = hashlib.sha256(payload).digest()
        if actual == checksum and len(payload) == self._num_rows * 16:
            cached.store(np.arange(self._num_rows), np.frombuffer(payload, "<f8").reshape(-1, 2))
            return
        logger.warning(
            "%s is damaged: it was written with the SHA-256 checksum %s and now has %s, for %d of %d bytes; computing "
            "the reference again",
            *(self._earlier, checksum.hex()[:16], actual.hex()[:16], len(payload), self._num_rows * 16),
        )
