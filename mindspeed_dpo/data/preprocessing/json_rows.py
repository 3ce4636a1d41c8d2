"""Rows of JSON files: a list of objects, one object per line, or any sequence of lists and objects.

In a file with one object per line, a line that is not valid JSON costs one row. In other files the end of such a row is
unknown, so that it is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mindspeed_dpo.data.preprocessing.json_document import read_document, row_of
from mindspeed_dpo.data.preprocessing.row_size_limit import MAX_ROW_BYTES
from mindspeed_dpo.data.preprocessing.text_lines import MAX_EMPTY_LINES, gzip_errors, open_bytes, read_lines
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import UnacceptedValueError, parse_json_prefix, skip_whitespace
from mindspeed_dpo.untrusted.text_files import decode_text


def read_json_rows(path: Path) -> Iterator[Row | RowDropped]:
    """Yield the rows of a JSON file.

    Raises:
        MalformedDataError: The file is damaged, or is not JSON from some row on; the message names file and row.
    """
    return _read_lines(path) if _has_object_per_line(path) else read_document(path)


def _has_object_per_line(path: Path) -> bool:
    """Return whether one of the first two lines is an object; either may be the one that is not valid."""
    lines: list[bytes] = []
    with open_bytes(path) as file, gzip_errors(path, "after line 0"):
        # The line of a list may be as long as the file.
        for _ in range(MAX_EMPTY_LINES):
            line = file.readline(MAX_ROW_BYTES + 1)
            if len(lines) == 2 or not line:
                break
            lines += [line] if line.strip() else []
            if _begins_list(line) or len(line) > MAX_ROW_BYTES:
                break
    if lines and (_begins_list(lines[0]) or len(lines[0]) > MAX_ROW_BYTES):
        return False
    return not lines or any(map(_begins_with_object, lines))


def _begins_list(line: bytes) -> bool:
    return line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _begins_with_object(line: bytes) -> bool:
    try:
        text = decode_text(line, "")
        value, _ = parse_json_prefix(text, skip_whitespace(text, 0), "")
    except MalformedDataError:
        return False
    return isinstance(value, dict)


def _read_lines(path: Path) -> Iterator[Row | RowDropped]:
    for number, line in read_lines(path):
        if isinstance(line, MalformedDataError):
            yield RowDropped("unreadable", str(line))
        else:
            yield from _rows_of_line(line, f"{path}, line {number}")


def _rows_of_line(line: bytes, location: str) -> Iterator[Row | RowDropped]:
    """Yield the rows of a line, normally one; a comma after an object is accepted."""
    try:
        text = decode_text(line, location)
        position = skip_whitespace(text, 0)
        while position < len(text):
            try:
                value, position = parse_json_prefix(text, position, location)
                yield from (row_of(item, location) for item in (value if isinstance(value, list) else [value]))
            except UnacceptedValueError as error:
                yield RowDropped("unreadable", str(error))
                position = error.end
            position = skip_whitespace(text, position)
            position = skip_whitespace(text, position + 1) if text.startswith(",", position) else position
    except MalformedDataError as error:
        yield RowDropped("unreadable", str(error))
