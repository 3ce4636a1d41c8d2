"""Digests of files, computed as the bytes are written and checked as they are read.

A file has one XXH3 digest of 64 bits per block of 4 MiB. A reader that needs a part of a file, such as one rank's shard
of a tensor, therefore reads and checks the blocks of that part only, and a damaged file is reported with its position.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

BLOCK_BYTES = 1 << 22
ALGORITHM = "xxh3_64"
_DIGITS = 16


class DamageError(ValueError):
    """A file differs from what was written; the message names the file, the expected and the actual digest."""


@dataclass(frozen=True)
class FileDigest:
    """Size and block digests of a file.

    Example:
        FileDigest(num_bytes=10, blocks=("9f2c51a07be3d846",))
    """

    num_bytes: int
    blocks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values; the digests are joined, since a large file has thousands."""
        return {"num_bytes": self.num_bytes, ALGORITHM: "".join(self.blocks)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FileDigest:
        """Build a digest from the result of `as_json`."""
        joined = str(values[ALGORITHM])
        blocks = tuple(joined[start : start + _DIGITS] for start in range(0, len(joined), _DIGITS))
        return cls(int(values["num_bytes"]), blocks)

    def check_block(self, number: int, content: memoryview | bytes, path: Path) -> None:
        """Compare one block with its digest.

        Raises:
            DamageError: They differ.
        """
        expected = self.blocks[number]
        if (actual := digest_of(content)) != expected:
            first = number * BLOCK_BYTES
            raise DamageError(
                f"{path} is damaged: bytes {first} to {first + len(content) - 1} were written with the {ALGORITHM} "
                f"digest {expected} and now have {actual}"
            )


def digest_of(content: memoryview | bytes) -> str:
    """Return the digest of one block in hexadecimal digits."""
    return str(xxhash.xxh3_64_hexdigest(content))


class BlockHasher:
    """Computes the digest of a stream of bytes."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._blocks: list[str] = []
        self._open = xxhash.xxh3_64()

    def update(self, content: memoryview) -> None:
        """Add the next bytes."""
        start = 0
        while start < len(content):
            missing = BLOCK_BYTES - self._num_bytes % BLOCK_BYTES
            part = content[start : start + missing]
            self._open.update(part)
            self._num_bytes += len(part)
            start += len(part)
            if len(part) == missing:
                self._blocks.append(self._open.hexdigest())
                self._open.reset()

    def result(self) -> FileDigest:
        """Return the digest of all bytes so far."""
        unfinished = [self._open.hexdigest()] if self._num_bytes % BLOCK_BYTES else []
        return FileDigest(self._num_bytes, (*self._blocks, *unfinished))


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
        """Return True."""
        return True

    def write(self, content: Any) -> int:
        """Write bytes; an error is also stored in `error`."""
        view = memoryview(content).cast("B")
        try:
            self._raw.write(view)
        except OSError as error:
            self.error = self.error or OSError(error.errno, error.strerror, str(self.path))
            raise
        self._hasher.update(view)
        return len(view)

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


class VerifiedFile(io.RawIOBase):
    """A file that is read in any order; each block is compared with its digest before a byte of it is returned."""

    def __init__(self, path: Path, digest: FileDigest) -> None:
        """Open a file.

        Raises:
            DamageError: It has another size than when it was written.
        """
        self._path, self._digest = path, digest
        self._raw = path.open("rb", buffering=0)
        self._position = 0
        self._block = -1
        self._content = b""
        size = os.fstat(self._raw.fileno()).st_size
        if size != digest.num_bytes:
            self._raw.close()
            raise DamageError(f"{path} is damaged: {digest.num_bytes} bytes were written and {size} are there")

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position of the next byte."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._digest.num_bytes}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, except at the end of the file; return the number of bytes.

        Raises:
            DamageError: A block differs from its digest.
        """
        target = memoryview(buffer).cast("B")
        wanted = max(0, min(len(target), self._digest.num_bytes - self._position))
        done = 0
        while done < wanted:
            number, start = divmod(self._position, BLOCK_BYTES)
            size = self._block_size(number)
            if start == 0 and wanted - done >= size:
                # A complete block needs no copy.
                self._read_block(number, target[done : done + size])
                count = size
            else:
                self._load(number)
                count = min(wanted - done, size - start)
                target[done : done + count] = self._content[start : start + count]
            done += count
            self._position += count
        return done

    def close(self) -> None:
        """Close the file."""
        self._raw.close()
        super().close()

    def _block_size(self, number: int) -> int:
        return min(BLOCK_BYTES, self._digest.num_bytes - number * BLOCK_BYTES)

    def _load(self, number: int) -> None:
        if number != self._block:
            content = bytearray(self._block_size(number))
            self._read_block(number, memoryview(content))
            self._block, self._content = number, bytes(content)

    def _read_block(self, number: int, target: memoryview) -> None:
        self._raw.seek(number * BLOCK_BYTES)
        done = 0
        while done < len(target) and (count := self._raw.readinto(target[done:])):
            done += count
        self._digest.check_block(number, target[:done], self._path)


def open_verified(path: Path, digest: FileDigest | None) -> BinaryIO:
    """Open a file for reading; its blocks are checked where there is a digest.

    Raises:
        DamageError: The file has another size than when it was written.
    """
    return path.open("rb") if digest is None else io.BufferedReader(VerifiedFile(path, digest))


def verify_file(path: Path, digest: FileDigest) -> None:
    """Read a complete file and compare it with its digest.

    Raises:
        DamageError: It differs, or does not exist.
    """
    if not path.is_file():
        raise DamageError(f"{path} is missing")
    buffer = bytearray(BLOCK_BYTES)
    with VerifiedFile(path, digest) as file:
        while file.readinto(buffer):
            pass


def file_digest(path: Path) -> FileDigest:
    """Compute the digest of a file that something else has written, by reading it."""
    hasher = BlockHasher()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(memoryview(block))
    return hasher.result()
