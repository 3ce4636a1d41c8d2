"""Digests of files: one per block, so that a part of a file can be checked alone.

A file has one XXH3 digest of 64 bits per block of 4 MiB. A reader that needs a part of a file, such as one rank's shard
of a tensor, therefore reads and checks the blocks of that part only, and a damaged file is reported with its position.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

BLOCK_BYTES = 1 << 22
ALGORITHM = "xxh3_64"
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


def file_digest(path: Path) -> FileDigest:
    """Compute the digest of a file that something else has written, by reading it."""
    hasher = BlockHasher()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(memoryview(block))
    return hasher.result()
