"""Arrow and parquet files: their column names, and batches of the requested columns.

A batch is not yet checked: Arrow's readers check the structure of a file, but not the offsets of texts and lists.
`arrow_rows` validates before it reads values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from mindspeed_dpo.untrusted.errors import MalformedDataError

_BATCH_ROWS = 1024
_FILE_MAGIC = b"ARROW1"
_ENDS_OF_STREAM = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")
"""What ends an Arrow stream, by itself and in versions of Arrow before 0.15."""


def arrow_column_names(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of an Arrow file or stream, in order.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names it.
    """
    file_size(path)
    with arrow_errors(path, "the file"), pyarrow.memory_map(str(path)) as source:
        reader = pyarrow.ipc.open_file(source) if _is_file(source) else pyarrow.ipc.open_stream(source)
        return tuple(reader.schema.names)


def parquet_column_names(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a parquet file, in order.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names it.
    """
    file_size(path)
    with arrow_errors(path, "the file"):
        return tuple(pyarrow.parquet.read_schema(path).names)


def parquet_num_rows(path: Path) -> int:
    """Return the number of rows that a parquet file names; it may be wrong.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged; the message names it.
    """
    file_size(path)
    with arrow_errors(path, "the file"):
        return int(pyarrow.parquet.read_metadata(path).num_rows)


def read_arrow_batches(path: Path, columns: Collection[str] | None = None) -> Iterator[pyarrow.RecordBatch]:
    """Yield the batches of an Arrow file, or of an Arrow stream as `datasets` writes it, from a memory map.

    Args:
        path: The file.
        columns: Names of the columns to read; None reads all. Those that the file lacks are not in the batches.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged or truncated; the message names it.
    """
    file_size(path)
    with arrow_errors(path, "the file"), pyarrow.memory_map(str(path)) as source:
        is_file = _is_file(source)
        schema = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).schema
        indices = _selected(schema.names, columns)
        source.seek(0)
        # No index would mean all columns.
        options = pyarrow.ipc.IpcReadOptions(included_fields=indices or ([0] if len(schema) else []))
        batches = _file_batches(source, options) if is_file else _stream_batches(source, options, path)
        names = [schema.names[index] for index in indices]
        for batch in batches:
            yield batch if len(batch.schema) == len(names) else batch.select([])


def read_parquet_batches(path: Path, columns: Collection[str] | None = None) -> Iterator[pyarrow.RecordBatch]:
    """Yield the batches of a parquet file; arguments and errors are those of `read_arrow_batches`.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedDataError: It is damaged or truncated; the message names it.
    """
    file_size(path)
    with arrow_errors(path, "the file"), pyarrow.parquet.ParquetFile(path) as source:
        names = source.schema_arrow.names
        indices = _selected(names, columns)
        wanted = None if len(indices) == len(names) else [names[index] for index in indices]
        num_rows = 0
        for batch in source.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            num_rows += batch.num_rows
            # A name with a dot also selects what lies within a structure of another name.
            yield batch if wanted is None else batch.select(wanted)
        if num_rows != source.metadata.num_rows:
            raise MalformedDataError(f"{path} has {num_rows} rows, but announces {source.metadata.num_rows}")


def open_text_batches(path: Path) -> tuple[tuple[str, ...], list[pyarrow.RecordBatch]]:
    """Map an Arrow file whose columns are all `large_string` without nulls, and check its offsets, not its texts.

    Only the offsets are read, so opening a file of any size is cheap; the texts still have to be decoded as UTF-8.

    Returns:
        The names of the columns, and the batches.

    Raises:
        MalformedDataError: The file is damaged, or has columns of other types.
    """
    file_size(path)
    with arrow_errors(path, "the file"):
        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        names, types = tuple(reader.schema.names), reader.schema.types
    if any(kind != pyarrow.large_string() for kind in types):
        raise MalformedDataError(f"{path}: every column should be of large_string, but it has {str(types)[:300]}")
    for number, batch in enumerate(batches):
        with arrow_errors(path, f"batch {number}"):
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


def _selected(names: Sequence[str], columns: Collection[str] | None) -> list[int]:
    return [index for index, name in enumerate(names) if columns is None or name in columns]


def _is_file(source: pyarrow.NativeFile) -> bool:
    """Return whether an Arrow file begins here, not a stream; the position stays at its start."""
    magic = source.read(len(_FILE_MAGIC))
    source.seek(0)
    return bool(magic == _FILE_MAGIC)


def _file_batches(source: pyarrow.NativeFile, options: pyarrow.ipc.IpcReadOptions) -> Iterator[pyarrow.RecordBatch]:
    reader = pyarrow.ipc.open_file(source, options=options)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _stream_batches(
    source: pyarrow.NativeFile, options: pyarrow.ipc.IpcReadOptions, path: Path
) -> Iterator[pyarrow.RecordBatch]:
    """Yield the batches of a stream, which must end with its mark and the file with it.

    Arrow reads a stream without the mark to its last complete batch and reports nothing.
    """
    reader = pyarrow.ipc.open_stream(source, options=options)
    position, count = source.tell(), 0
    for batch in reader:
        position, count = source.tell(), count + batch.num_rows
        yield batch
    source.seek(position)
    rest = source.read(16)
    if rest not in _ENDS_OF_STREAM:
        if rest.startswith(_ENDS_OF_STREAM):
            raise MalformedDataError(f"{path}: after the {count} rows of its Arrow stream there is other data")
        raise MalformedDataError(
            f"{path}: the Arrow stream has no mark of its end after {count} rows; it was truncated, or its writer has "
            "not closed it"
        )


def file_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    size = path.stat().st_size
    if size == 0:
        raise MalformedDataError(f"{path} is empty")
    return size


@contextmanager
def arrow_errors(path: Path, part: str) -> Iterator[None]:
    """Report what Arrow raises for a damaged file; `part` follows the path in the message.

    Raises:
        MalformedDataError: The block raised such an error.
    """
    try:
        yield
    except MalformedDataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise MalformedDataError(f"{path}, {part}: damaged or truncated: {reason}") from error
