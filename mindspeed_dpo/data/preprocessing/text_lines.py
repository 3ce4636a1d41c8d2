"""Lines of text files, also gzipped, as bytes: a line that is not UTF-8 must not cost the others."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.text_files import MAX_LINE_CHARACTERS


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1.

    Raises:
        MalformedDataError: The file is damaged, or a line is too long; the message names file and line.
    """
    number = 0
    with open_bytes(path) as file:
        while True:
            with gzip_errors(path, f"after line {number}"):
                line = file.readline(MAX_LINE_CHARACTERS + 1)
            if not line:
                return
            number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                raise MalformedDataError(f"{path}, line {number} has more than {MAX_LINE_CHARACTERS} bytes")
            yield number, line


def open_bytes(path: Path) -> IO[bytes] | gzip.GzipFile:
    """Open a file, decompressed if its name ends with `.gz`."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else open(path, "rb")


@contextmanager
def gzip_errors(path: Path, position: str) -> Iterator[None]:
    """Report what a damaged gzip file raises; `position` follows the path in the message.

    Raises:
        MalformedDataError: The block raised such an error.
    """
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MalformedDataError(f"{path}, {position}: damaged or truncated gzip data: {error}") from error
