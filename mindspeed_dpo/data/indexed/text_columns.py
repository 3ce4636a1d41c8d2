"""Reader and writer of text columns: JSON values in an Arrow file, read by row from a memory map.

`row_encoder` defines the columns, and `column_group` commits them together with the token columns. Values are stored as
JSON text, so the type of a value does not depend on other rows; nothing is unpickled.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray

from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError

_BATCH_ROWS = 1024
_BATCH_CHARACTERS = 1 << 22
"""Maximum number of characters of a record batch, which together with the rows bounds memory while writing."""


def json_text(value: Any) -> str:
    """Serialize a value to JSON text that is valid Unicode; dates, times and decimals become strings.

    Raises:
        TypeError: The value contains a type without a JSON form, such as bytes.
    """
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # A lone surrogate is valid in JSON but not in UTF-8.
        text = json.dumps(value, default=_plain)
    return text


def _plain(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class TextColumnsWriter:
    """Writes text columns row by row; the output is deterministic."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Start the file."""
        self._schema = pyarrow.schema([pyarrow.field(name, pyarrow.large_string(), False) for name in names])
        self._writer = pyarrow.ipc.new_file(str(path), self._schema)
        self._rows: list[dict[str, str]] = []
        self._characters = 0
        self._hash = hashlib.sha256()

    @property
    def content_hash(self) -> str:
        """SHA-256 of the rows so far."""
        return self._hash.hexdigest()

    def append(self, texts: Mapping[str, str]) -> None:
        """Append one row with a JSON text for each column."""
        row = {name: texts[name] for name in self._schema.names}
        self._hash.update(json.dumps(list(row.values())).encode())
        self._rows.append(row)
        self._characters += sum(map(len, row.values()))
        if len(self._rows) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def append_all(self, reader: TextColumnsReader) -> None:
        """Append every row of another file."""
        for texts in reader.texts():
            self.append(texts)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pyarrow.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0

    def abandon(self) -> None:
        """Close the unfinished file."""
        self._rows = []
        self._writer.close()

    def close(self) -> None:
        """Complete the file."""
        self._flush()
        self._writer.close()


class TextColumnsReader:
    """Reads rows by number; only the requested values are read from disk.

    Attributes:
        names: Names of the columns.
    """

    def __init__(self, path: Path) -> None:
        """Map a file into memory and check its format.

        Raises:
            TokenFileError: The file is damaged or has another format.
        """
        self._path = path
        try:
            reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pyarrow.ArrowException, OSError) as error:
            raise TokenFileError(f"{path} is not an Arrow file, or it is truncated: {error}") from error
        self.names: tuple[str, ...] = tuple(reader.schema.names)
        if any(kind != pyarrow.large_string() for kind in reader.schema.types):
            raise TokenFileError(f"{path}: every column should be of large_string, but it has {reader.schema.types}")
        if not all(map(_is_sound, self._batches)):
            raise TokenFileError(f"{path}: texts do not lie end to end, so the file is damaged; preprocess again")
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def value(self, row: int, name: str) -> Any:
        """Return the value of one column in one row.

        Raises:
            TokenFileError: The stored text is not valid JSON.
        """
        number = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[number]
        inner = row - int(self._ends[number]) + batch.num_rows
        try:
            return json.loads(batch.column(name)[inner].as_py())
        except ValueError as error:
            raise TokenFileError(f"{self._path}, row {row}, column {name}: not JSON text: {error}") from error

    def texts(self) -> Iterator[dict[str, str]]:
        """Yield all rows in order, as JSON texts by column."""
        for batch in self._batches:
            yield from batch.to_pylist()


def _is_sound(batch: pyarrow.RecordBatch) -> bool:
    """Return whether all offsets are within the file; reads offsets only, so it is cheap."""
    return all(_lies_within(column) for column in batch.columns)


def _lies_within(column: pyarrow.Array) -> bool:
    _, offsets, data = column.buffers()
    if offsets is None or data is None:
        return len(column) == 0
    places: NDArray[np.int64] = np.frombuffer(offsets, "<i8")[: len(column) + 1]
    in_order = len(places) == len(column) + 1 and places[0] >= 0 and (np.diff(places) >= 0).all()
    return bool(in_order and places[-1] <= data.size and column.null_count == 0)
