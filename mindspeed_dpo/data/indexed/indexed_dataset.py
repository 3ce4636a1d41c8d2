"""Reader and writer of Megatron's indexed dataset: one column of token rows in a `.bin` and an `.idx` file.

`column_group` defines the columns of a dataset and commits them together. Nothing is unpickled or modified in place.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.indexed.unchanged_file import UnchangedFile
from mindspeed_dpo.untrusted.errors import QuotingError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPES: dict[int, np.dtype] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
}
"""Type code in the `.idx` -> dtype of the numbers in the `.bin`, little-endian."""

_HEADER = struct.Struct("<9sQBQQ")
_INT32_CODE = 4


class TokenFileError(QuotingError):
    """Raised for token files that are damaged or inconsistent."""


class IndexedDatasetWriter:
    """Writes one column row by row as int32; every row is one sequence and one document."""

    def __init__(self, stem: str | Path) -> None:
        """Start `{stem}.bin`; `close` writes `{stem}.idx`."""
        self.stem = Path(stem)
        self.lengths: list[int] = []
        self._documents: list[int] = [0]
        self._bin = open(self._path("bin"), "wb")  # noqa: SIM115  closed by close()
        self._hash = hashlib.sha256()

    def _path(self, suffix: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{suffix}")

    @property
    def content_hash(self) -> str:
        """SHA-256 of the content of the `.bin` so far."""
        return self._hash.hexdigest()

    def append(self, row: Sequence[int] | NDArray[np.integer]) -> None:
        """Append one row of token ids, [length] of integer dtype."""
        self._write(np.asarray(row, dtype=DTYPES[_INT32_CODE]))
        self.lengths.append(len(row))
        self._documents.append(len(self.lengths))

    def append_all(self, reader: IndexedDatasetReader, chunk_numbers: int = 1 << 24) -> None:
        """Append every row of another column, with document boundaries shifted by the rows written before."""
        for start in range(0, reader.num_tokens, chunk_numbers):
            reader.check_unchanged()
            self._write(reader.tokens[start : start + chunk_numbers].astype(DTYPES[_INT32_CODE]))
        self._documents += (reader.documents[1:] + len(self.lengths)).tolist()
        self.lengths += reader.lengths.tolist()

    def _write(self, numbers: NDArray[np.integer]) -> None:
        data = numbers.tobytes()
        self._hash.update(data)
        self._bin.write(data)

    def abandon(self) -> None:
        """Close the unfinished files."""
        self._bin.close()

    def close(self) -> None:
        """Complete both files."""
        self._bin.close()
        lengths = np.asarray(self.lengths, dtype="<i4")
        ends = np.cumsum(lengths, dtype="<i8") * DTYPES[_INT32_CODE].itemsize
        with open(self._path("idx"), "wb") as idx:
            idx.write(_HEADER.pack(MAGIC, VERSION, _INT32_CODE, len(lengths), len(self._documents)))
            idx.write(lengths.tobytes())
            idx.write((ends - lengths.astype("<i8") * DTYPES[_INT32_CODE].itemsize).tobytes())
            idx.write(np.asarray(self._documents, dtype="<i8").tobytes())


class IndexedDatasetReader:
    """Reads the rows of one column by number from a read-only memory map.

    Attributes:
        lengths: [rows] int32, numbers per row.
        starts: [rows] int64, first number of each row.
        documents: [documents + 1] int64, first row of each document.
        tokens: [all numbers] in the type the file declares, mapped read-only.
    """

    def __init__(self, stem: str | Path) -> None:
        """Open `{stem}.bin` and `{stem}.idx` and check that they describe each other.

        Raises:
            FileNotFoundError: One of the files is missing.
            TokenFileError: A header or a size is invalid; the message names the file.
        """
        stem = Path(stem)
        self.idx_path, self.bin_path = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("idx", "bin"))
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                raise FileNotFoundError(f"there is no token file {path}")
        self._read_index(self.idx_path.read_bytes())
        self._check_bin()
        self._file = UnchangedFile(self.bin_path)
        self.tokens = (
            np.memmap(self.bin_path, dtype=self.dtype, mode="r") if self.num_tokens else np.empty(0, self.dtype)
        )

    def _read_index(self, data: bytes) -> None:
        if len(data) < _HEADER.size or data[: len(MAGIC)] != MAGIC:
            raise TokenFileError(f"{self.idx_path} is not an index of tokens: it should start with MMIDIDX")
        _, version, code, rows, marks = _HEADER.unpack_from(data)
        if version != VERSION or code not in DTYPES:
            raise TokenFileError(
                f"{self.idx_path}: version {version}, type code {code}; supported: version 1, type codes 1 to 8"
            )
        expected = _HEADER.size + 12 * rows + 8 * marks
        if len(data) not in (expected, expected + rows):
            raise TokenFileError(
                f"{self.idx_path} has {len(data)} bytes, but {rows} rows need {expected}: it is truncated or damaged"
            )
        self.dtype = DTYPES[code]
        self.lengths = np.frombuffer(data, "<i4", rows, _HEADER.size)
        offsets = np.frombuffer(data, "<i8", rows, _HEADER.size + 4 * rows)
        self.documents = np.frombuffer(data, "<i8", marks, _HEADER.size + 12 * rows)
        self.starts = offsets // self.dtype.itemsize
        ends = np.cumsum(self.lengths, dtype=np.int64)
        if (self.lengths < 0).any() or not np.array_equal(offsets, (ends - self.lengths) * self.dtype.itemsize):
            raise TokenFileError(f"{self.idx_path}: rows do not lie end to end, so the index is damaged")
        if marks < 1 or self.documents[0] != 0 or self.documents[-1] != rows or (np.diff(self.documents) < 0).any():
            raise TokenFileError(f"{self.idx_path}: document marks do not run from 0 to {rows}")
        self.num_tokens = int(ends[-1]) if rows else 0

    def _check_bin(self) -> None:
        expected, actual = self.num_tokens * self.dtype.itemsize, self.bin_path.stat().st_size
        if expected != actual:
            raise TokenFileError(
                f"{self.bin_path} has {actual} bytes, but its index describes {expected}: "
                "one of the two is truncated or belongs to another run; preprocess again"
            )

    def check_unchanged(self) -> None:
        """Check that numbers can be read.

        Raises:
            ChangedFileError: The `.bin` has changed since it was opened.
        """
        self._file.check_unchanged()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Return a copy of one row, [length] int32.

        Raises:
            TokenFileError: A number in a wider type has no equal in int32.
            ChangedFileError: The `.bin` has changed since it was opened.
        """
        self.check_unchanged()
        start = int(self.starts[row])
        stored = self.tokens[start : start + int(self.lengths[row])]
        if np.can_cast(self.dtype, np.int32):
            return np.array(stored, dtype=np.int32)
        with np.errstate(invalid="ignore"):
            ids = stored.astype(np.int32)
        if (ids != stored).any():
            first = stored[ids != stored][0]
            raise TokenFileError(f"{self.bin_path}, row {row}: {first} is not a token id; preprocess again")
        return ids

    def chunks(self, max_numbers: int) -> Iterator[tuple[slice, NDArray]]:
        """Yield row ranges in order with their numbers: at most `max_numbers`, or a single longer row.

        Raises:
            ChangedFileError: The `.bin` has changed since it was opened.
        """
        ends = self.starts + self.lengths
        first = 0
        while first < len(self):
            self.check_unchanged()
            last = max(first + 1, int(np.searchsorted(ends, self.starts[first] + max_numbers, side="right")))
            yield slice(first, last), self.tokens[self.starts[first] : ends[last - 1]]
            first = last
