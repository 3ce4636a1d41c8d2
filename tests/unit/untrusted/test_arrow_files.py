"""Arrow and parquet: rows as pyarrow gives them, and no crash for offsets that point elsewhere."""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mindspeed_dpo.untrusted.arrow_files import open_text_batches, read_arrow_rows, read_parquet_rows
from mindspeed_dpo.untrusted.errors import MalformedDataError

ROWS = [{"text": "ä" * n, "list": [n, None], "group": {"x": n / 2}, "kind": "ab"[n % 2]} for n in range(200)]


def table() -> pyarrow.Table:
    """The rows with a column of codes."""
    made = pyarrow.Table.from_pylist(ROWS)
    return made.set_column(3, "kind", made["kind"].combine_chunks().dictionary_encode())


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_rows_are_those_of_the_table(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    if kind == "parquet":
        pyarrow.parquet.write_table(table(), path)
        assert list(read_parquet_rows(path)) == ROWS
        return
    write = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with write(str(path), table().schema) as writer:
        writer.write_table(table(), max_chunksize=70)
    assert list(read_arrow_rows(path)) == ROWS


@pytest.mark.parametrize("offset", [1 << 30, -(1 << 30), 1 << 16])
def test_an_offset_beyond_the_texts_is_refused(offset: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    column = pyarrow.array(["first", "second", "third"])
    with pyarrow.ipc.new_file(str(path), pyarrow.schema([("a", pyarrow.string())])) as writer:
        writer.write_table(pyarrow.table({"a": column}))
    content = path.read_bytes()
    assert content.count(struct.pack("<4i", 0, 5, 11, 16)) == 1
    path.write_bytes(content.replace(struct.pack("<4i", 0, 5, 11, 16), struct.pack("<4i", 0, 5, offset, 16)))
    with pytest.raises(MalformedDataError, match=r"rows\.arrow, batch 0: damaged"):
        list(read_arrow_rows(path))


@pytest.mark.parametrize("num_bytes", [0, 3, 100, 700, -1, -20])
def test_a_truncated_file_is_refused(num_bytes: int, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(table(), tmp_path / "a.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table().schema) as writer:
        writer.write_table(table())
    for read, name in ((read_parquet_rows, "a.parquet"), (read_arrow_rows, "a.arrow")):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:num_bytes])
        with pytest.raises(MalformedDataError, match=name):
            list(read(path))


def test_rows_without_bytes_are_bounded(tmp_path: Path) -> None:
    """A column of nulls of any length takes no bytes."""
    path, length = tmp_path / "a.arrow", 1 << 22
    with pyarrow.ipc.new_file(str(path), pyarrow.schema([("a", pyarrow.null())])) as writer:
        writer.write_batch(pyarrow.record_batch({"a": pyarrow.nulls(length)}))
    content = path.read_bytes()
    for longer in (length, 1 << 60):
        path.write_bytes(content.replace(struct.pack("<q", length), struct.pack("<q", longer)))
        with pytest.raises(MalformedDataError, match=f"{longer} values, too many for a file of"):
            list(read_arrow_rows(path))


def test_text_columns_are_checked_without_reading_the_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pyarrow.ipc.new_file(str(path), pyarrow.schema([pyarrow.field("a", pyarrow.large_string(), False)])) as writer:
        writer.write_table(
            pyarrow.table({"a": pyarrow.array(["first", "second"], pyarrow.large_string())}, writer_schema())
        )
    names, batches = open_text_batches(path)
    assert names == ("a",) and batches[0].column(0).to_pylist() == ["first", "second"]
    good = struct.pack("<3q", 0, 5, 11)
    for offsets in ((0, 5, 1 << 40), (0, 12, 11), (-1, 5, 11)):
        path.write_bytes(path.read_bytes().replace(good, struct.pack("<3q", *offsets)))
        good = struct.pack("<3q", *offsets)
        with pytest.raises(MalformedDataError, match=r"a\.arrow, batch 0"):
            open_text_batches(path)


def writer_schema() -> pyarrow.Schema:
    return pyarrow.schema([pyarrow.field("a", pyarrow.large_string(), False)])
