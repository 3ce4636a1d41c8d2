"""Rows of a JSON text that is no sequence of lines: lists, objects over several lines, or both, one after the other.

The text is read piece by piece; in memory are the piece and the row at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mindspeed_dpo.data.preprocessing.row_size_limit import MAX_ROW_BYTES, row_too_long
from mindspeed_dpo.data.preprocessing.text_lines import read_pieces
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import TextStart, UnacceptedValueError, parse_json_prefix, skip_whitespace


def read_document(path: Path) -> Iterator[Row | RowDropped]:
    """Yield the rows of a JSON file up to its end.

    Raises:
        MalformedDataError: The file is damaged, or is not JSON from some row on; the message names file and row.
    """
    return _Document(path).rows()


class _Document:
    """A position in the text of a JSON file, which moves from row to row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pieces = read_pieces(path)
        # The part of the text in memory, where it starts in the file, and the position in it.
        self._text, self._start = "", TextStart()
        self._position = 0
        self._num_rows = 0
        self._unread: MalformedDataError | None = None

    def rows(self) -> Iterator[Row | RowDropped]:
        """Yield all rows up to the end of the text."""
        while start := self._next_character():
            if start == "[":
                yield from self._list()
            else:
                yield self._next_row()
        if self._unread is not None:
            yield RowDropped("unreadable", str(self._unread))

    def _list(self) -> Iterator[Row | RowDropped]:
        self._position += 1
        while self._next_character() != "]":
            yield self._next_row()
            if self._next_character() == ",":
                self._position += 1
            elif self._next_character() != "]":
                line, _ = self._start.place(self._text, self._position)
                raise MalformedDataError(
                    f"{self._path}, after row {self._num_rows}: line {line}: invalid JSON: expected , or ]"
                )
        self._position += 1

    def _next_row(self) -> Row | RowDropped:
        self._num_rows += 1
        location = f"{self._path}, row {self._num_rows}"
        value = self._next_value(location)
        return value if isinstance(value, RowDropped) else row_of(value, location)

    def _next_value(self, location: str) -> Any:
        """Parse a value; one that may continue after the text in memory is parsed again with more of it."""
        while True:
            try:
                value, end = parse_json_prefix(self._text, self._position, location, self._start)
            except UnacceptedValueError as error:
                value, end = RowDropped("unreadable", str(error)), error.end
            except MalformedDataError as error:
                if len(self._text) - self._position > MAX_ROW_BYTES:
                    raise MalformedDataError(f"{error}, or the row is longer than {MAX_ROW_BYTES}") from error
                if not self._extend():
                    raise
                continue
            if end < len(self._text) or not self._extend():
                break
        start, self._position = self._position, end
        if end - start > MAX_ROW_BYTES:
            return RowDropped("unreadable", str(row_too_long(location)))
        try:
            self._text[start:end].encode()
        except UnicodeEncodeError:
            return RowDropped("unreadable", f"{location}: not UTF-8 text")
        return value

    def _next_character(self) -> str:
        """Return the next character that is not whitespace; empty at the end."""
        while True:
            self._position = skip_whitespace(self._text, self._position)
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._extend():
                return ""

    def _extend(self) -> bool:
        """Forget the text before the position and double the rest; return False at the end of the file."""
        self._start = self._start.moved(self._text, self._position)
        rest, self._position = self._text[self._position :], 0
        pieces, num_characters = [rest], 0
        for piece in self._pieces:
            if isinstance(piece, MalformedDataError):
                self._unread = piece
                break
            pieces.append(piece)
            num_characters += len(piece)
            if num_characters > len(rest):
                break
        self._text = "".join(pieces)
        return num_characters > 0


def row_of(value: Any, location: str) -> Row | RowDropped:
    """Return a parsed value as a row, which must be an object."""
    if isinstance(value, dict):
        return value
    return RowDropped("unreadable", f"{location}: expected an object of columns, got {type(value).__name__}")
