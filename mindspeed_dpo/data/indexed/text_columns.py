"""What prompts carry beside their tokens: columns of JSON values in an Arrow file, read by row from a memory map.

Writer and reader stand side by side. What the columns mean is left to `row_encoder`, and that they appear together with
the token columns to `token_set`. Values are stored as JSON text, so that any of them comes back as it was, whatever the
other rows hold; nothing is unpickled.
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
"""A batch of the file ends after so many rows or characters: what is held in memory while writing."""


def json_text(value: Any) -> str:
    """A value as JSON text that is valid Unicode; dates and decimals, which JSON lacks, become texts.

    Raises:
        TypeError: The value, or something in it, has no such form, as bytes do not.
    """
    text = json.dumps(value, ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # Half of a surrogate pair, which JSON can hold and UTF-8 cannot.
        text = json.dumps(value, default=_plain)
    return text


def _plain(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class TextColumnsWriter:
    """Writes columns of JSON texts row by row; the same rows give the same bytes."""

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
        """Add one row: a JSON text for each column."""
        row = {name: texts[name] for name in self._schema.names}
        self._hash.update(json.dumps(list(row.values())).encode())
        self._rows.append(row)
        self._characters += sum(map(len, row.values()))
        if len(self._rows) >= _BATCH_ROWS or self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def append_all(self, reader: TextColumnsReader) -> None:
        """Add every row of another file."""
        for texts in reader.texts():
            self.append(texts)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pyarrow.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0

    def abandon(self) -> None:
        """Stop writing; the file is of no use."""
        self._rows = []
        self._writer.close()

    def close(self) -> None:
        """Finish the file."""
        self._flush()
        self._writer.close()


class TextColumnsReader:
    """Reads rows by number; only what is asked for leaves the disk.

    Attributes:
        names: The columns.
    """

    def __init__(self, path: Path) -> None:
        """Map a file into memory and check that it is what the writer makes.

        Raises:
            TokenFileError: It is damaged, or of another form.
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
        """The value of one column in one row.

        Raises:
            TokenFileError: What is stored there is not JSON.
        """
        number = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[number]
        inner = row - int(self._ends[number]) + batch.num_rows
        try:
            return json.loads(batch.column(name)[inner].as_py())
        except ValueError as error:
            raise TokenFileError(f"{self._path}, row {row}, column {name}: not JSON text: {error}") from error

    def texts(self) -> Iterator[dict[str, str]]:
        """All rows as stored, in order."""
        for batch in self._batches:
            yield from batch.to_pylist()


def _is_sound(batch: pyarrow.RecordBatch) -> bool:
    """Whether all texts lie within the file; texts themselves are not looked at, so this is cheap."""
    return all(_lies_within(column) for column in batch.columns)


def _lies_within(column: pyarrow.Array) -> bool:
    _, offsets, data = column.buffers()
    if offsets is None or data is None:
        return len(column) == 0
    places: NDArray[np.int64] = np.frombuffer(offsets, "<i8")[: len(column) + 1]
    in_order = len(places) == len(column) + 1 and places[0] >= 0 and (np.diff(places) >= 0).all()
    return bool(in_order and places[-1] <= data.size and column.null_count == 0)
