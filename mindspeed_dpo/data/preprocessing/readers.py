"""Raw rows from json, jsonl (also gzipped), parquet, arrow, csv and txt files, one at a time.

A reader knows nothing of columns; it promises that whatever cannot be read is reported with the file and the row.
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
    """A raw file that cannot be read."""


_CSV_BLOCK_BYTES = 1 << 26
"""A csv row, with the newlines in its quotes, may be as long as this."""


def _read_json(path: Path) -> Iterator[Row]:
    """A list of objects, or one object per line: the first character tells."""
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
    filled = ((place, line) for place, line in enumerate(lines, start=1) if line.strip())
    for number, (place, line) in enumerate(filled, start=1):
        try:
            row = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            where = f"{path}, row {number} (line {place}, column {error.colno})"
            raise InputError(f"{where}: broken JSON: {error.msg}") from error
        yield _object(row, path, number)


def _read_json_list(path: Path, text: str) -> Iterator[Row]:
    decoder, number = json.JSONDecoder(), 0
    place = _skip(text, text.index("[") + 1)
    while not text.startswith("]", place):
        number += 1
        try:
            row, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, row {number} (line {error.lineno}): broken JSON: {error.msg}") from error
        yield _object(row, path, number)
        place = _skip(text, place)
        if text.startswith(",", place):
            place = _skip(text, place + 1)
        elif not text.startswith("]", place):
            line = text.count("\n", 0, place) + 1
            raise InputError(f"{path}, after row {number} (line {line}): broken JSON: expected , or ]")


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _object(row: Any, path: Path, number: int) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{path}, row {number}: expected an object of columns, got {type(row).__name__}")
    return row


def _read_parquet(path: Path) -> Iterator[Row]:
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def _read_arrow(path: Path) -> Iterator[Row]:
    """An Arrow file, or a stream such as `datasets` writes."""
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
    """All columns as text: a column of digits is still text to train on."""
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
    """One row per line, in the column `text`."""
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
"""Format -> the endings of its files, and what reads one."""


def format_of(path: Path) -> str | None:
    """The format a file name announces, None for others."""
    return next((name for name, (endings, _) in FORMATS.items() if path.name.lower().endswith(endings)), None)


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file.

    Raises:
        InputError: Something in it cannot be read; names the file and, where it can be told, the row.
    """
    kind = format_of(path)
    if kind is None:
        raise InputError(f"{path}: the ending {path.suffix!r} is not one of {all_endings()}")
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


def all_endings() -> str:
    """Every ending that is read, for messages."""
    return ", ".join(ending for endings, _ in FORMATS.values() for ending in endings)
