"""Text files, also gzipped, as bytes of lines or as pieces of text: a line that cannot be read must not cost others.

What is in memory is bounded by the longest row that is accepted, however large a file is or unpacks to.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mindspeed_dpo.data.preprocessing.row_size_limit import MAX_ROW_BYTES, row_too_long
from mindspeed_dpo.untrusted.errors import MalformedDataError

PIECE_CHARACTERS = 1 << 20


def read_lines(path: Path) -> Iterator[tuple[int, bytes | MalformedDataError]]:
    """Yield the lines of a file with their numbers from 1; in place of a line that is too long, the reason.

    Raises:
        MalformedDataError: The file is damaged; the message names file and line.
    """
    number = 0
    with open_bytes(path) as file:
        while True:
            with gzip_errors(path, f"after line {number}"):
                line = file.readline(MAX_ROW_BYTES + 1)
                is_too_long = len(line) > MAX_ROW_BYTES
                rest = line
                while is_too_long and rest and not rest.endswith(b"\n"):
                    rest = file.readline(PIECE_CHARACTERS)
            if not line:
                return
            number += 1
            yield number, row_too_long(f"{path}, line {number}") if is_too_long else line


def read_pieces(path: Path) -> Iterator[str]:
    """Yield a UTF-8 file as texts of up to `PIECE_CHARACTERS`, without a byte order mark.

    Bytes that are not UTF-8 become halves of surrogate pairs, which identify the row.

    Raises:
        MalformedDataError: The file is damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    with open_bytes(path) as file:
        is_first = True
        while True:
            with gzip_errors(path, "its content"):
                data = file.read(PIECE_CHARACTERS)
            text = decoder.decode(data, final=not data)
            yield text.removeprefix("\ufeff") if is_first else text
            is_first = False
            if not data:
                return


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
