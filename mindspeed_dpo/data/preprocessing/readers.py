"""Readers of json, jsonl (also gzipped), parquet, arrow, csv and txt files, which yield raw rows one at a time.

Readers do not interpret columns. Every error names the file and, where possible, the row.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from mindspeed_dpo.data.tokenization.examples import Row


class InputError(ValueError):
    """Raised for raw data that cannot be read."""


_CSV_BLOCK_BYTES = 1 << 26
"""Maximum size of a csv row, including quoted newlines, in bytes."""


def _read_json(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON list or of JSON lines, depending on the first character."""
    with _open_text(path) as file:
        start = file.read(1)
        while start.isspace():
            start = file.read(1)
        file.seek(0)
        yield from _read_json_list(path, file.read()) if start == "[" else _read_json_lines(path, file)


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")


def _read_json_lines(path: Path, lines: Iterable[str]) -> Iterator[Row]:
    non_empty = ((line_number, line) for line_number, line in enumerate(lines, start=1) if line.strip())
    for number, (line_number, line) in enumerate(non_empty, start=1):
        try:
            row = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            where = f"{path}, row {number} (line {line_number}, column {error.colno})"
            raise InputError(f"{where}: invalid JSON: {error.msg}") from error
        yield _object(row, path, number)


def _read_json_list(path: Path, text: str) -> Iterator[Row]:
    decoder, number = json.JSONDecoder(), 0
    position = _skip_whitespace(text, text.index("[") + 1)
    while not text.startswith("]", position):
        number += 1
        try:
            row, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, row {number} (line {error.lineno}): invalid JSON: {error.msg}") from error
        yield _object(row, path, number)
        position = _skip_whitespace(text, position)
        if text.startswith(",", position):
            position = _skip_whitespace(text, position + 1)
        elif not text.startswith("]", position):
            line = text.count("\n", 0, position) + 1
            raise InputError(f"{path}, after row {number} (line {line}): invalid JSON: expected , or ]")


def _skip_whitespace(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _object(row: Any, path: Path, number: int) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{path}, row {number}: expected an object of columns, got {type(row).__name__}")
    return row


def _read_parquet(path: Path) -> Iterator[Row]:
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def _read_arrow(path: Path) -> Iterator[Row]:
    """Yield the rows of an Arrow file or of an Arrow stream, which `datasets` writes."""
    with pyarrow.memory_map(str(path)) as source:
        try:
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            source.seek(0)
            batches = iter(pyarrow.ipc.open_stream(source))
        for batch in batches:
            yield from batch.to_pylist()


def _read_csv(path: Path) -> Iterator[Row]:
    """Yield the rows with every column as text: digits must not become numbers."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    batches = pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types={name: pyarrow.string() for name in names}),
    )
    for batch in batches:
        yield from batch.to_pylist()


def _read_txt(path: Path) -> Iterator[Row]:
    """Yield one row per non-empty line, with the column `text`."""
    with open(path, encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield {"text": line.rstrip("\n")}


FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Path], Iterator[Row]]]] = {
    "json": ((".json", ".jsonl", ".json.gz", ".jsonl.gz"), _read_json),
    "parquet": ((".parquet",), _read_parquet),
    "arrow": ((".arrow",), _read_arrow),
    "csv": ((".csv",), _read_csv),
    "txt": ((".txt",), _read_txt),
}
"""Format -> file name suffixes and reader."""


def file_format(path: Path) -> str | None:
    """Return the format of a file by its suffix, or None if it is not supported."""
    return next((name for name, (suffixes, _) in FORMATS.items() if path.name.lower().endswith(suffixes)), None)


def read_file(path: Path) -> Iterator[Row]:
    """Yield the rows of one file.

    Raises:
        InputError: The file cannot be read; the message names the file and, where possible, the row.
    """
    kind = file_format(path)
    if kind is None:
        raise InputError(f"{path}: the suffix {path.suffix!r} is not one of {supported_suffixes()}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    count = 0
    try:
        for row in FORMATS[kind][1](path):
            count += 1
            yield row
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, after row {count}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (pyarrow.ArrowException, csv.Error, gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{path}, after row {count}: not a readable {kind} file: {error}") from error


def supported_suffixes() -> str:
    """Return all supported suffixes, for messages."""
    return ", ".join(suffix for suffixes, _ in FORMATS.values() for suffix in suffixes)
