"""Digests of files, computed as the bytes are written and checked as they are read.

A file has one XXH3 digest of 64 bits per block of 4 MiB. A reader that needs a part of a file, such as one rank's shard
of a tensor, therefore reads and checks the blocks of that part only, and a damaged file is reported with its position.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import xxhash

BLOCK_BYTES = 1 << 22
ALGORITHM = "xxh3_64"
PARALLEL_BYTES = 1 << 18
"""Smaller pieces are digested by the thread that writes them; handing them over would take longer."""
_DIGITS = 16
_MAX_NAME_BYTES = 255


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
    def from_json(cls, values: Any) -> FileDigest:
        """Build a digest from the result of `as_json`.

        Raises:
            DamageError: It is not such a result.
        """
        num_bytes, joined = (values.get(key) if isinstance(values, dict) else None for key in ("num_bytes", ALGORITHM))
        if type(num_bytes) is not int or num_bytes < 0 or not isinstance(joined, str):
            raise DamageError("a digest is not a number of bytes and digits")
        blocks = tuple(joined[start : start + _DIGITS] for start in range(0, len(joined), _DIGITS))
        if len(blocks) != -(-num_bytes // BLOCK_BYTES):
            raise DamageError(f"a digest of {num_bytes} bytes has {len(blocks)} blocks")
        return cls(num_bytes, blocks)

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


def digests_from_json(values: Any) -> dict[str, FileDigest]:
    """Build digests by file name; none from null.

    Raises:
        DamageError: The value is not an object of digests, or names a file outside the folder.
    """
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise DamageError("digests must be an object")
    if outside := [name for name in values if not is_within(name)]:
        raise DamageError(f"digests name a file outside the folder, {outside[0][:80]!r}")
    return {name: FileDigest.from_json(value) for name, value in values.items()}


def is_within(name: str) -> bool:
    """Return whether a path is one of a file within a folder, with names not longer than file systems allow."""
    path = PurePosixPath(name)
    is_short = all(len(part.encode("utf-8", "surrogatepass")) <= _MAX_NAME_BYTES for part in path.parts)
    return is_short and not path.is_absolute() and not {"..", ""} & {*path.parts, name.strip(".")} and "\0" not in name


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

    Large pieces are digested in a second thread while they are written: both release Python's global lock.

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
        # It starts its thread with the first piece that it is given.
        self._second_thread = ThreadPoolExecutor(1, "digest")

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
        if len(view) < PARALLEL_BYTES:
            self._write(view)
            self._hasher.update(view)
            return len(view)
        hashing = self._second_thread.submit(self._hasher.update, view)
        try:
            self._write(view)
        finally:
            # The memory belongs to the caller, who may reuse it.
            hashing.result()
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
        self._second_thread.shutdown()
        self._raw.close()
        super().close()


class BlockVerifier:
    """Compares blocks of a file with their digests, each once, as the parts of the file that they cover are read."""

    def __init__(self, path: Path, digest: FileDigest, num_bytes: int) -> None:
        """Begin with no block.

        Args:
            path: Path of the file, for messages.
            digest: Digest of the file as it was written.
            num_bytes: Size of the file as it is.

        Raises:
            DamageError: The sizes differ.
        """
        if num_bytes != digest.num_bytes:
            raise DamageError(f"{path} is damaged: {digest.num_bytes} bytes were written and {num_bytes} are there")
        self._path, self._digest = path, digest
        self._checked: set[int] = set()

    def check(self, offset: int, num_bytes: int, read: Callable[[int, int], memoryview | bytes]) -> None:
        """Check the blocks that a range of bytes touches.

        Args:
            offset: Start of the range, which is within the file.
            num_bytes: Its length.
            read: Returns the content of the file, given start and length.

        Raises:
            DamageError: A block differs from its digest.
        """
        last = (offset + num_bytes - 1) // BLOCK_BYTES if num_bytes else -1
        for number in range(offset // BLOCK_BYTES, last + 1):
            if number not in self._checked:
                start = number * BLOCK_BYTES
                content = read(start, min(BLOCK_BYTES, self._digest.num_bytes - start))
                self._digest.check_block(number, content, self._path)
                self._checked.add(number)


def verify_file(path: Path, digest: FileDigest) -> None:
    """Read a complete file and compare it with its digest.

    Raises:
        DamageError: It differs, or does not exist.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise DamageError(f"{path} is missing")
    verifier = BlockVerifier(path, digest, path.stat().st_size)
    with path.open("rb") as file:
        # The blocks are asked for in the order of the file.
        verifier.check(0, digest.num_bytes, lambda start, num_bytes: file.read(num_bytes))


def file_digest(path: Path) -> FileDigest:
    """Compute the digest of a file that something else has written, by reading it."""
    hasher = BlockHasher()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(memoryview(block))
    return hasher.result()
