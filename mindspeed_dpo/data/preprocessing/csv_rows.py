"""Rows of csv and tsv files, whose columns are all texts: digits must not become numbers.

A row that cannot be read costs itself. Where quoted text does not end, the end of its row is unknown, so that it is an
error. In memory is one row at most, however long a line or a quoted text is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mindspeed_dpo.data.preprocessing.row_size_limit import MAX_ROW_BYTES, row_too_long
from mindspeed_dpo.data.preprocessing.text_lines import MAX_SKIPPED_BYTES, PIECE_CHARACTERS, is_text
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.untrusted.errors import MalformedDataError

_QUOTE = '"'


def read_csv_rows(path: Path) -> Iterator[Row | RowDropped]:
    """Yield the rows of a csv file, or of a tsv file by its suffix.

    Raises:
        MalformedDataError: The header cannot be read, or quoted text does not end; the message names file and line.
    """
    # The lines bound the length of a row.
    csv.field_size_limit(2 * MAX_ROW_BYTES)
    # Bytes that are not UTF-8 become halves of surrogate pairs, which identify the row.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file, path)
        reader = csv.reader(lines, strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = _header(reader, path)
        while True:
            lines.begin_row()
            try:
                values = next(reader)
            except StopIteration:
                return
            except RowDropped as dropped:
                yield dropped
            except csv.Error as error:
                yield lines.unreadable(error)
            else:
                if values:
                    yield _row(names, values, f"{path}, line {lines.first}")


def _header(reader: Iterator[list[str]], path: Path) -> list[str]:
    try:
        names = next(reader, [])
    except (csv.Error, RowDropped) as error:
        reason = error.detail if isinstance(error, RowDropped) else error
        raise MalformedDataError(f"{path}: the header cannot be read: {reason}") from error
    if not is_text("".join(names)):
        raise MalformedDataError(f"{path}: the header is not UTF-8 text; save the file as UTF-8")
    if len(set(names)) < len(names):
        raise MalformedDataError(f"{path}: a column name of the header occurs twice: {', '.join(names)}")
    return names


def _row(names: list[str], values: list[str], location: str) -> Row | RowDropped:
    if len(values) != len(names):
        return RowDropped("unreadable", f"{location}: {len(values)} values, but the header has {len(names)} columns")
    if not is_text("".join(values)):
        return RowDropped("unreadable", f"{location}: not UTF-8 text")
    return dict(zip(names, values, strict=True))


class _Lines(Iterator[str]):
    """The lines of a file, of which one row may take several.

    Attributes:
        first: Number of the row's first line, from 1.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._num_lines, self._is_line_ended = 0, True
        self.begin_row()

    def begin_row(self) -> None:
        """Begin to count for the next row."""
        self.first = self._num_lines + 1
        self._num_characters = self._num_quotes = 0

    def __next__(self) -> str:
        """Return the next line.

        Raises:
            RowDropped: The row is too long; its lines were passed over.
            MalformedDataError: It has no end.
        """
        line = self._read(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        if self._num_characters > MAX_ROW_BYTES:
            self._skip_row()
            raise RowDropped("unreadable", str(row_too_long(f"{self._path}, line {self.first}")))
        return line

    def unreadable(self, error: csv.Error) -> RowDropped:
        """Return what replaces a row that is not csv.

        Raises:
            MalformedDataError: It has no end, so that those after it are unknown.
        """
        if "unexpected end" in str(error):
            raise self._unended() from error
        return RowDropped("unreadable", f"{self._path}, lines {self.first} to {self._num_lines}: {error}")

    def _skip_row(self) -> None:
        """Pass over a row up to the end of the first line that is not within quoted text."""
        while not self._is_line_ended or self._num_quotes % 2:
            line = self._read(PIECE_CHARACTERS)
            if not line and self._num_quotes % 2 == 0:
                return
            if not line or self._num_characters > MAX_SKIPPED_BYTES:
                raise self._unended()

    def _read(self, max_characters: int) -> str:
        line = self._file.readline(max_characters)
        self._num_lines += self._is_line_ended and bool(line)
        self._is_line_ended = line.endswith(("\n", "\r"))
        self._num_characters += len(line)
        self._num_quotes += line.count(_QUOTE)
        return line

    def _unended(self) -> MalformedDataError:
        return MalformedDataError(f"{self._path}: the quoted text that begins in line {self.first} does not end")
