"""Files of bytes and of UTF-8 text, with a bound on what is read into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mindspeed_dpo.untrusted.errors import MalformedDataError

MAX_SMALL_FILE_BYTES = 1 << 26
"""Limit for configurations, indexes and descriptions, 64 MiB; those of the largest models take a few."""
MAX_LINE_CHARACTERS = 1 << 23
"""Limit for one line, 8 Mi: what is parsed of it takes up to 20 times as much memory."""
MAX_NAME_BYTES = 255
_BYTE_ORDER_MARK = "\ufeff"


def is_file_name(name: str) -> bool:
    """Whether a text can name a file within a folder: one part of a path, not longer than file systems allow."""
    return Path(name).name == name and "\0" not in name and len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES


def has_file(path: Path) -> bool:
    """Return whether a file exists that may be absent. What is in its place and no file must not count as absence.

    Raises:
        MalformedDataError: The path is a folder, a pipe, a device, or a link that leads nowhere.
    """
    if path.is_file():
        return True
    if os.path.lexists(path):
        raise MalformedDataError(f"{path} is {_kind(path)}, where a file is expected; replace or remove it")
    return False


def _kind(path: Path) -> str:
    kinds = {"a folder": path.is_dir(), "a pipe": path.is_fifo(), "a link that leads nowhere": not path.exists()}
    return next((name for name, applies in kinds.items() if applies), "no regular file")


def read_bytes(path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES) -> bytes:
    """Read a regular file.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is no regular file, or larger than `max_bytes`.
    """
    has_file(path)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise MalformedDataError(f"{path} has more than {max_bytes} bytes, the limit for a file of its kind")
    return content


def read_text(path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES) -> str:
    """Read a file of UTF-8 text, with or without a byte order mark.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not UTF-8, or is larger than `max_bytes`.
    """
    return decode_text(read_bytes(path, max_bytes), str(path))


def decode_text(data: bytes, location: str) -> str:
    """Decode UTF-8 and drop a byte order mark; `location` begins the message of an error.

    Raises:
        MalformedDataError: The bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise MalformedDataError(f"{location} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, without holding the file in memory.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is no regular file, not UTF-8, or a line is longer than `MAX_LINE_CHARACTERS`.
    """
    has_file(path)
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        while True:
            try:
                line = file.readline(MAX_LINE_CHARACTERS + 1)
            except UnicodeDecodeError as error:
                raise MalformedDataError(f"{path}, after line {number}: not UTF-8 text: {error.reason}") from error
            if not line:
                return
            number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                raise MalformedDataError(f"{path}, line {number} has more than {MAX_LINE_CHARACTERS} characters")
            yield number, line
