"""Text files, also gzipped, as bytes of lines or as pieces of text: a line that cannot be read must not cost others.

What is in memory is bounded by the longest row that is accepted, however large a file is or unpacks to.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mindspeed_dpo.data.preprocessing.row_size_limit import MAX_ROW_BYTES, row_too_long
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.gzip_stream import GzipStream

PIECE_CHARACTERS = 1 << 20
MAX_SKIPPED_BYTES = 1 << 30
"""Limit for one line that is passed over, 1 GiB: a longer one is the content of a file that has no lines."""
MAX_EMPTY_LINES = 1_000_000
"""Limit for empty lines in a row, of which a damaged gzip file may unpack to any number."""
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SAMPLE_BYTES = 1000


def read_lines(path: Path) -> Iterator[tuple[int, bytes | MalformedDataError]]:
    """Yield the lines of a file with their numbers from 1; in place of a line that is too long, the reason.

    Raises:
        MalformedDataError: The file is damaged; the message names file and line.
    """
    number = num_empty = 0
    with open_bytes(path) as file:
        while True:
            with gzip_errors(path, f"after line {number}"):
                line = file.readline(MAX_ROW_BYTES + 1)
                is_too_long = len(line) > MAX_ROW_BYTES
                if is_too_long and not line.endswith(b"\n"):
                    _skip_line(file, f"{path}, line {number + 1}")
            if not line:
                break
            number += 1
            num_empty = 0 if line.strip() else num_empty + 1
            if num_empty > MAX_EMPTY_LINES:
                raise MalformedDataError(f"{path}: {num_empty} lines before line {number} are empty")
            yield number, row_too_long(f"{path}, line {number}") if is_too_long else line
        if problem := unread_end(file, path):
            yield number + 1, problem


def _skip_line(file: io.BufferedReader, location: str) -> None:
    num_bytes = 0
    while (rest := file.readline(PIECE_CHARACTERS)) and not rest.endswith(b"\n"):
        num_bytes += len(rest)
        if num_bytes > MAX_SKIPPED_BYTES:
            raise MalformedDataError(f"{location} has more than {MAX_SKIPPED_BYTES} bytes; expected one row per line")


def read_pieces(path: Path) -> Iterator[str | MalformedDataError]:
    """Yield a UTF-8 file as texts of up to `PIECE_CHARACTERS`, without a byte order mark.

    If the file ends with bytes that were not read, the last item says so.

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
                break
        if problem := unread_end(file, path):
            yield problem


def open_bytes(path: Path) -> io.BufferedReader:
    """Open a file, decompressed if its name ends with `.gz`."""
    return io.BufferedReader(GzipStream(path), PIECE_CHARACTERS) if path.suffix.lower() == ".gz" else open(path, "rb")


def unread_end(file: io.BufferedReader, path: Path) -> MalformedDataError | None:
    """Return what was not read of a file that was read to its end; None if that is nothing."""
    if not isinstance(file.raw, GzipStream) or file.raw.unread is None:
        return None
    return MalformedDataError(f"{path}: from byte {file.raw.unread} on it is no gzip data, which was not read")


def check_encoding(path: Path) -> None:
    """Check the first bytes of a text file: rows of another encoding could be taken for UTF-8 with null characters.

    Raises:
        MalformedDataError: The file is not UTF-8 text, or it is damaged.
    """
    with open_bytes(path) as file, gzip_errors(path, "after line 0"):
        start = file.read(_SAMPLE_BYTES)
    found = next((f"{name} text" for mark, name in _OTHER_ENCODINGS.items() if start.startswith(mark)), "")
    if not found and 4 * start.count(b"\0") > len(start):
        found = "UTF-16 text without a mark, or no text"
    if found:
        raise MalformedDataError(f"{path} is {found}; save it as UTF-8")


def is_text(text: str) -> bool:
    """Return whether a text was UTF-8 before it was decoded with halves of surrogate pairs, and has no null characters.

    Null characters are what remains of a block of a file that was never written.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


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
