"""Arrow and parquet files: batches whose buffers and offsets were checked before anything reads through them.

Arrow's readers check the structure of a file, but not the offsets of texts and lists: used without validation, a
changed byte makes the process read memory that is not its own. Validation reads every buffer once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from mindspeed_dpo.untrusted.errors import MalformedDataError

_BATCH_ROWS = 1024
_SLICE_ROWS = 64
"""Rows converted to Python values at a time; rows may share one long value of a dictionary."""
_VALUES_PER_BYTE = 64
_MIN_VALUES = 1 << 20
"""A file may have this many values, or `_VALUES_PER_BYTE` for each of its bytes: a column of nulls takes no bytes."""


def read_arrow_batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    """Yield the validated batches of an Arrow file, or of an Arrow stream as `datasets` writes it, from a memory map.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names file and batch.
    """
    size = _file_size(path)
    with _arrow_errors(path, "the file"), pyarrow.memory_map(str(path)) as source:
        yield from _validated(_batches(source), path, size)


def read_parquet_batches(path: Path) -> Iterator[pyarrow.RecordBatch]:
    """Yield the validated batches of a parquet file.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names file and batch.
    """
    size = _file_size(path)
    with _arrow_errors(path, "the file"), pyarrow.parquet.ParquetFile(path) as source:
        yield from _validated(source.iter_batches(batch_size=_BATCH_ROWS), path, size)


def read_arrow_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow file or stream as plain values by column.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged, or a value has no form in Python; the message names file and row.
    """
    return _rows(path, read_arrow_batches(path))


def open_text_batches(path: Path) -> tuple[tuple[str, ...], list[pyarrow.RecordBatch]]:
    """Map an Arrow file whose columns are all `large_string` without nulls, and check its offsets, not its texts.

    Only the offsets are read, so opening a file of any size is cheap; the texts still have to be decoded as UTF-8.

    Returns:
        The names of the columns, and the batches.

    Raises:
        MalformedDataError: The file is damaged, or has columns of other types.
    """
    _file_size(path)
    with _arrow_errors(path, "the file"):
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        names, types = tuple(reader.schema.names), reader.schema.types
    if any(kind != pyarrow.large_string() for kind in types):
        raise MalformedDataError(f"{path}: every column should be of large_string, but it has {str(types)[:300]}")
    for number, batch in enumerate(batches):
        with _arrow_errors(path, f"batch {number}"):
            batch.validate()
            in_order = all(map(_lies_end_to_end, batch.columns))
        if not in_order:
            raise MalformedDataError(f"{path}, batch {number}: texts do not lie end to end")
    return names, batches


def _lies_end_to_end(column: pyarrow.Array) -> bool:
    """Whether the offsets of texts are in order and within the texts."""
    if len(column) == 0:
        return True
    validity, offsets, data = column.buffers()
    if validity is not None or column.null_count or offsets is None or data is None:
        return False
    places: NDArray[np.int64] = np.frombuffer(offsets, "<i8", min(len(column) + 1, offsets.size // 8))
    in_order = len(places) == len(column) + 1 and places[0] >= 0 and (np.diff(places) >= 0).all()
    return bool(in_order and places[-1] <= data.size)


def read_parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file as plain values by column.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged, or a value has no form in Python; the message names file and row.
    """
    return _rows(path, read_parquet_batches(path))


def _rows(path: Path, batches: Iterator[pyarrow.RecordBatch]) -> Iterator[dict[str, Any]]:
    count = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise MalformedDataError(f"{path}: a column name occurs twice: {', '.join(names)}")
        for start in range(0, batch.num_rows, _SLICE_ROWS):
            with _arrow_errors(path, f"after row {count}"):
                rows = batch.slice(start, _SLICE_ROWS).to_pylist()
            count += len(rows)
            yield from rows


def _validated(batches: Iterator[pyarrow.RecordBatch], path: Path, file_bytes: int) -> Iterator[pyarrow.RecordBatch]:
    for number, batch in enumerate(batches):
        with _arrow_errors(path, f"batch {number}"):
            batch.validate(full=True)
            _check_num_values(batch, file_bytes, f"{path}, batch {number}")
        yield batch


def _batches(source: pyarrow.NativeFile) -> Iterator[pyarrow.RecordBatch]:
    try:
        reader = pyarrow.ipc.open_file(source)
    except pyarrow.ArrowInvalid:
        source.seek(0)
        yield from pyarrow.ipc.open_stream(source)
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _file_size(path: Path) -> int:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    size = path.stat().st_size
    if size == 0:
        raise MalformedDataError(f"{path} is empty")
    return size


@contextmanager
def _arrow_errors(path: Path, part: str) -> Iterator[None]:
    """Report what Arrow raises for a damaged file."""
    try:
        yield
    except MalformedDataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MalformedDataError(f"{path}, {part}: damaged or truncated: {reason}") from error


def _check_num_values(batch: pyarrow.RecordBatch, file_bytes: int, location: str) -> None:
    """Bound the number of values, which for nulls and repeated values does not follow from the size of the file."""
    limit = max(_MIN_VALUES, _VALUES_PER_BYTE * file_bytes)
    num_values = sum(_num_values(column, location) for column in batch.columns)
    if num_values > limit:
        raise MalformedDataError(f"{location} has {num_values} values, too many for a file of {file_bytes} bytes")


def _num_values(array: pyarrow.Array, location: str) -> int:
    """Number of values of an array and, at any depth, of its lists and structures."""
    kind, count = array.type, len(array)
    if pyarrow.types.is_struct(kind):
        return count + sum(_num_values(array.field(number), location) for number in range(kind.num_fields))
    if pyarrow.types.is_map(kind):
        return count + _num_values(array.keys, location) + _num_values(array.items, location)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return count + _num_values(array.values, location)
    if isinstance(array, pyarrow.ExtensionArray):
        return count + _num_values(array.storage, location)
    if kind.num_fields:
        raise MalformedDataError(f"{location}: a column has the type {kind}, which is not supported")
    return count
