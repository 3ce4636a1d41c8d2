"""Fingerprints of files, computed once for each version of them, since roles often share their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_HASH_BLOCK_BYTES = 1 << 24
_fingerprints: dict[tuple[tuple[str | int, ...], ...], str] = {}


def fingerprint_of(files: Sequence[Path], folder: Path) -> str:
    """SHA-256 of names and contents of files, in hexadecimal digits.

    Args:
        files: The files in any order.
        folder: The folder that their names are relative to.
    """
    files = sorted(files)
    versions: tuple[tuple[str | int, ...], ...] = tuple((str(file), *_version(file)) for file in files)
    if versions not in _fingerprints:
        _fingerprints[versions] = _hash_files(files, folder)
    return _fingerprints[versions]


def _hash_files(files: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder)}:{file.stat().st_size};".encode())
        with file.open("rb") as stream:
            while block := stream.read(_HASH_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _version(file: Path) -> tuple[int, ...]:
    """The attributes that change when a file is written."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
