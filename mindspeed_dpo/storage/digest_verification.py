"""Verification of files against their digests, block by block, as they are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindspeed_dpo.storage.digests import BLOCK_BYTES, DamageError, FileDigest


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
        # The blocks are requested in the order of the file.
        verifier.check(0, digest.num_bytes, lambda start, num_bytes: file.read(num_bytes))
