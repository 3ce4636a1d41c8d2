"""Rows of Arrow and parquet files as plain values, of columns whose buffers and offsets were checked before.

Used without validation, a changed byte makes the process read memory that is not its own. Validation reads every
buffer once. A value without a form in Python, such as a date after the year 9999, costs its row and not the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow

from mindspeed_dpo.untrusted.arrow_files import arrow_errors, file_size, read_arrow_batches, read_parquet_batches
from mindspeed_dpo.untrusted.errors import MalformedDataError

ArrowRow = dict[str, Any] | MalformedDataError
"""Values by column, or the reason for which the row cannot be read."""
_SLICE_ROWS = 64
"""Rows converted to Python values at a time; rows may share one long value of a dictionary."""
_VALUES_PER_BYTE = 64
_MIN_VALUES = 1 << 20
"""A file may have this many values, or `_VALUES_PER_BYTE` for each of its bytes: a column of nulls takes no bytes."""
# What a value raises that has no form in Python.
_VALUE_ERRORS = (
    pyarrow.ArrowException, ValueError, OverflowError, KeyError, TypeError, AttributeError, NotImplementedError,
)  # fmt: skip


def read_arrow_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[ArrowRow]:
    """Yield the rows of an Arrow file or stream as plain values by column.

    Args:
        path: The file.
        columns: Names of the columns to read; None reads all. Nothing in another column can make reading fail.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names it and, where possible, the batch.
    """
    return _rows(path, read_arrow_batches(path, columns))


def read_parquet_rows(path: Path, columns: Collection[str] | None = None) -> Iterator[ArrowRow]:
    """Yield the rows of a parquet file as plain values by column; arguments and errors are those of `read_arrow_rows`.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names it and, where possible, the batch.
    """
    return _rows(path, read_parquet_batches(path, columns))


def _rows(path: Path, batches: Iterator[pyarrow.RecordBatch]) -> Iterator[ArrowRow]:
    count, size = 0, file_size(path)
    for number, batch in enumerate(batches):
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise MalformedDataError(f"{path}: a column name occurs twice: {', '.join(names)}")
        with arrow_errors(path, f"batch {number}"):
            _validate(batch)
            _check_num_values(batch, size, f"{path}, batch {number}")
        for start in range(0, batch.num_rows, _SLICE_ROWS):
            with arrow_errors(path, f"after row {count}"):
                rows = _converted(batch.slice(start, _SLICE_ROWS), path, count)
            count += len(rows)
            yield from rows


def _converted(batch: pyarrow.RecordBatch, path: Path, num_before: int) -> list[ArrowRow]:
    try:
        rows: list[ArrowRow] = batch.to_pylist()
    except _VALUE_ERRORS:
        return [_row(batch, number, f"{path}, row {num_before + number + 1}") for number in range(batch.num_rows)]
    # Without columns Arrow gives no rows.
    return rows or [{} for _ in range(batch.num_rows)]


def _row(batch: pyarrow.RecordBatch, number: int, location: str) -> ArrowRow:
    """Convert one row value by value."""
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[number].as_py()
        except _VALUE_ERRORS as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            return MalformedDataError(f"{location}, column {name!r}: a value of {column.type} cannot be read: {reason}")
    return row


def _validate(batch: pyarrow.RecordBatch) -> None:
    """Check all buffers and offsets; texts that are not UTF-8 are left to the conversion of their rows.

    Raises:
        ArrowException: They are damaged.
    """
    try:
        batch.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        for column in batch.columns:
            _without_text(column).validate(full=True)


def _without_text(array: pyarrow.Array) -> pyarrow.Array:
    """Return an array of the same buffers whose texts are of type binary."""
    storage = array.storage if isinstance(array, pyarrow.ExtensionArray) else array
    return storage.view(_bytes_type(storage.type))


def _bytes_type(kind: Any) -> Any:
    """Return a type with binary in the place of texts, at any depth of lists, structures and dictionaries."""
    types = pyarrow.types
    for is_text, other in (
        (types.is_string, pyarrow.binary()),
        (types.is_large_string, pyarrow.large_binary()),
        (types.is_string_view, pyarrow.binary_view()),
    ):
        if is_text(kind):
            return other
    if types.is_dictionary(kind):
        return pyarrow.dictionary(kind.index_type, _bytes_type(kind.value_type), kind.ordered)
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_bytes_type(field.type)) for field in map(kind.field, range(len(kind)))])
    if types.is_map(kind):
        return pyarrow.map_(_bytes_type(kind.key_type), _bytes_type(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(kind.value_field.with_type(_bytes_type(kind.value_type)), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        make = pyarrow.list_ if types.is_list(kind) else pyarrow.large_list
        return make(kind.value_field.with_type(_bytes_type(kind.value_type)))
    return kind


def _check_num_values(batch: pyarrow.RecordBatch, file_bytes: int, location: str) -> None:
    """Bound the number of values, which for nulls and repeated values does not follow from the size of the file."""
    limit = max(_MIN_VALUES, _VALUES_PER_BYTE * file_bytes)
    columns = zip(batch.schema.names, batch.columns, strict=True)
    counts = [_num_values(column, f"{location}, column {name!r}") for name, column in columns]
    num_values = max(batch.num_rows, sum(counts))
    if num_values > limit:
        raise MalformedDataError(f"{location} has {num_values} values, too many for a file of {file_bytes} bytes")


def _num_values(array: pyarrow.Array, location: str) -> int:
    """Number of values of an array and, at any depth, of its lists and structures."""
    kind, count = array.type, len(array)
    if isinstance(array, pyarrow.ExtensionArray):
        return _num_values(array.storage, location)
    if pyarrow.types.is_struct(kind) or pyarrow.types.is_union(kind):
        return count + sum(_num_values(array.field(number), location) for number in range(kind.num_fields))
    if pyarrow.types.is_map(kind):
        return count + _num_values(array.keys, location) + _num_values(array.items, location)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return count + _num_values(array.values, location)
    if kind.num_fields:
        raise MalformedDataError(f"{location} has the type {kind}, which is not supported")
    return count
