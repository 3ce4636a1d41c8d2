"""Rows of JSON files: a list of objects, one object per line, or any sequence of lists and objects.

In a file with one object per line, a line that is not valid JSON costs one row. In other files the end of such a row is
unknown, so that it is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindspeed_dpo.data.preprocessing.text_lines import gzip_errors, open_bytes, read_lines
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import parse_json_prefix, skip_whitespace
from mindspeed_dpo.untrusted.text_files import decode_text


def read_json_rows(path: Path) -> Iterator[Row | RowDropped]:
    """Yield the rows of a JSON file.

    Raises:
        MalformedDataError: The file is damaged, or is not JSON from some row on; the message names file and row.
    """
    return _read_lines(path) if _has_object_per_line(path) else _read_document(path)


def _has_object_per_line(path: Path) -> bool:
    """Return whether one of the first two lines is an object; either may be the one that is not valid."""
    lines = [line for _, line in itertools.islice(filter(lambda pair: pair[1].strip(), read_lines(path)), 2)]
    return not lines[:1] or (not _begins_list(lines[0]) and any(map(_begins_with_object, lines)))


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
        yield from _rows_of_line(line, f"{path}, line {number}")


def _rows_of_line(line: bytes, location: str) -> list[Row | RowDropped]:
    """Return the rows of a line, normally one; a comma after an object is accepted."""
    rows: list[Row | RowDropped] = []
    try:
        text = decode_text(line, location)
        position = skip_whitespace(text, 0)
        while position < len(text):
            value, position = parse_json_prefix(text, position, location)
            rows += [_row(item, location) for item in (value if isinstance(value, list) else [value])]
            position = skip_whitespace(text, position)
            position = skip_whitespace(text, position + 1) if rows and text.startswith(",", position) else position
    except MalformedDataError as error:
        rows.append(RowDropped("unreadable", str(error)))
    return rows


def _read_document(path: Path) -> Iterator[Row | RowDropped]:
    with open_bytes(path) as file, gzip_errors(path, "its content"):
        data = file.read()
    # Bytes that are not UTF-8 become halves of surrogate pairs, which identify the row.
    yield from _Document(path, data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")).rows()


class _Document:
    """A position in the text of a JSON file, which moves from row to row."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._text = text
        self._position = 0
        self._num_rows = 0

    def rows(self) -> Iterator[Row | RowDropped]:
        """Yield all rows up to the end of the text."""
        while start := self._next_character():
            if start == "[":
                yield from self._list()
            else:
                yield self._next_row()

    def _list(self) -> Iterator[Row | RowDropped]:
        self._position += 1
        while self._next_character() != "]":
            yield self._next_row()
            if self._next_character() == ",":
                self._position += 1
            elif self._next_character() != "]":
                line = self._text.count("\n", 0, self._position) + 1
                raise MalformedDataError(
                    f"{self._path}, after row {self._num_rows}: line {line}: invalid JSON: expected , or ]"
                )
        self._position += 1

    def _next_row(self) -> Row | RowDropped:
        self._num_rows += 1
        start, location = self._position, f"{self._path}, row {self._num_rows}"
        value, self._position = parse_json_prefix(self._text, start, location)
        try:
            self._text[start : self._position].encode()
        except UnicodeEncodeError:
            return RowDropped("unreadable", f"{location}: not UTF-8 text")
        return _row(value, location)

    def _next_character(self) -> str:
        """Return the next character that is not whitespace; empty at the end."""
        self._position = skip_whitespace(self._text, self._position)
        return self._text[self._position : self._position + 1]


def _row(value: Any, location: str) -> Row | RowDropped:
    if isinstance(value, dict):
        return value
    return RowDropped("unreadable", f"{location}: expected an object of columns, got {type(value).__name__}")
