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

from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.unchanged_file import UnchangedFile
from mindspeed_dpo.untrusted.arrow_files import open_text_batches
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import parse_json
from mindspeed_dpo.untrusted.text_files import decode_text

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
        with reraised_as(TokenFileError, "preprocess again"):
            self.names, self._batches = open_text_batches(path)
        self._file = UnchangedFile(path)
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def value(self, row: int, name: str) -> Any:
        """Return the value of one column in one row.

        Raises:
            TokenFileError: The stored text is not valid JSON.
            ChangedFileError: The file has changed since it was opened.
        """
        self._file.check_unchanged()
        number = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[number]
        inner = row - int(self._ends[number]) + batch.num_rows
        location = f"{self._path}, row {row}, column {name}"
        with reraised_as(TokenFileError, "preprocess again"):
            return parse_json(batch.column(name)[inner].as_buffer().to_pybytes(), location)

    def texts(self) -> Iterator[dict[str, str]]:
        """Yield all rows in order, as JSON texts by column."""
        for number, batch in enumerate(self._batches):
            self._file.check_unchanged()
            for row in range(batch.num_rows):
                location = f"{self._path}, batch {number}, row {row}"
                stored = {name: batch.column(name)[row].as_buffer().to_pybytes() for name in self.names}
                with reraised_as(TokenFileError, "preprocess again"):
                    texts = {name: decode_text(text, location) for name, text in stored.items()}
                yield texts
