"""Readers of json, jsonl (also gzipped), parquet, arrow, csv, tsv and txt files, which yield raw rows one at a time.

Readers do not interpret columns. A row that cannot be read is yielded as a `RowDropped` and does not cost the others;
an error about a file names it and, where possible, the row. The readers of json and csv are not those of `datasets` or
pyarrow: these stop at one such row without its number, and guess types, so that a text such as a date changes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mindspeed_dpo.data.preprocessing.csv_rows import read_csv_rows
from mindspeed_dpo.data.preprocessing.json_rows import read_json_rows
from mindspeed_dpo.data.preprocessing.text_lines import check_encoding, read_lines
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.untrusted.arrow_files import arrow_column_names, parquet_column_names
from mindspeed_dpo.untrusted.arrow_rows import ArrowRow, read_arrow_rows, read_parquet_rows
from mindspeed_dpo.untrusted.errors import MalformedDataError, QuotingError, reraised_as
from mindspeed_dpo.untrusted.text_files import decode_text

RawRow = Row | RowDropped
"""A row as a reader yields it; `RowDropped` for one that cannot be read."""


class InputError(QuotingError):
    """Raised for raw data that cannot be read."""


def _read_txt(path: Path) -> Iterator[RawRow]:
    """Yield one row per non-empty line, with the column `text`."""
    for number, line in read_lines(path):
        if isinstance(line, MalformedDataError):
            yield RowDropped("unreadable", str(line))
        elif line.strip():
            try:
                text = decode_text(line, f"{path}, line {number}").rstrip("\r\n")
            except MalformedDataError as error:
                yield RowDropped("unreadable", str(error))
                continue
            is_whole = "\0" not in text
            yield {"text": text} if is_whole else RowDropped("unreadable", f"{path}, line {number}: a null character")


def _read_parquet(path: Path, columns: Collection[str] | None) -> Iterator[RawRow]:
    return map(_arrow_row, read_parquet_rows(path, columns))


def _read_arrow(path: Path, columns: Collection[str] | None) -> Iterator[RawRow]:
    return map(_arrow_row, read_arrow_rows(path, columns))


def _arrow_row(row: ArrowRow) -> RawRow:
    return RowDropped("unreadable", str(row)) if isinstance(row, MalformedDataError) else row


_BY_ROW: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[RawRow]]]] = {
    "json": ((".json", ".jsonl", ".json.gz", ".jsonl.gz"), read_json_rows),
    "csv": ((".csv", ".tsv"), read_csv_rows),
    "txt": ((".txt",), _read_txt),
}
"""Formats that store one row after the other -> file name suffixes and reader."""
_BY_COLUMN: dict[
    str,
    tuple[
        tuple[str, ...],
        Callable[[Path, Collection[str] | None], Iterator[RawRow]],
        Callable[[Path], tuple[str, ...]],
    ],
] = {
    "parquet": ((".parquet",), _read_parquet, parquet_column_names),
    "arrow": ((".arrow",), _read_arrow, arrow_column_names),
}
"""Formats that store columns, of which some can be read -> file name suffixes, reader and reader of the names."""
_SUFFIXES = {name: suffixes for name, (suffixes, _) in _BY_ROW.items()} | {
    name: suffixes for name, (suffixes, _, _) in _BY_COLUMN.items()
}


def file_format(path: Path) -> str | None:
    """Return the format of a file by its suffix, or None if it is not supported."""
    return next((name for name, suffixes in _SUFFIXES.items() if path.name.lower().endswith(suffixes)), None)


def read_file(path: Path, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """Yield the rows of one file.

    Args:
        path: The file.
        columns: Columns that will be used; rows of parquet and arrow files then have no others. None reads all.

    Raises:
        InputError: The file cannot be read; the message names the file and, where possible, the row.
    """
    kind = _checked_format(path)
    count = 0
    try:
        for row in _BY_COLUMN[kind][1](path, columns) if kind in _BY_COLUMN else _BY_ROW[kind][1](path):
            count += 1
            yield row
    except MalformedDataError as error:
        raise InputError(f"{error}; {count} rows were read before it") from error


def column_names(path: Path) -> tuple[str, ...] | None:
    """Return the columns that a file names apart from its rows; None for a format in which each row names its own.

    Raises:
        InputError: The file cannot be read.
    """
    kind = _checked_format(path)
    with reraised_as(InputError):
        return _BY_COLUMN[kind][2](path) if kind in _BY_COLUMN else None


def _checked_format(path: Path) -> str:
    kind = file_format(path)
    if kind is None:
        raise InputError(f"{path}: the suffix {path.suffix!r} is not one of {supported_suffixes()}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    if kind in _BY_ROW:
        with reraised_as(InputError):
            check_encoding(path)
    return kind


def supported_suffixes() -> str:
    """Return all supported suffixes, for messages."""
    return ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
