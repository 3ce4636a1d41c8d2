"""Arrow and parquet: rows as pyarrow gives them, and no crash for offsets that point elsewhere."""

from __future__ import annotations

import datetime
import re
import struct
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mindspeed_dpo.untrusted.arrow_files import arrow_column_names, open_text_batches, parquet_column_names
from mindspeed_dpo.untrusted.arrow_rows import read_arrow_rows, read_parquet_rows
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


def hostile_table() -> pyarrow.Table:
    """Two columns that are read, and columns whose values or types have no form in Python."""
    union = pyarrow.UnionArray.from_sparse(
        pyarrow.array([0, 1, 0], pyarrow.int8()), [pyarrow.array([1, 2, 3]), pyarrow.array(["a", "b", "c"])]
    )
    encoded = pyarrow.RunEndEncodedArray.from_arrays([3], ["a"])
    storage = pyarrow.array([1 << 40, 1, 1 << 41], pyarrow.timestamp("s"))
    return pyarrow.table(
        {
            "zone": pyarrow.array([1, 2, 3], pyarrow.timestamp("us", "Mars/Base")),
            "text": ["a", "b", "c"],
            "union": union,
            "runs": encoded,
            "extension": pyarrow.ExtensionArray.from_storage(pyarrow.opaque(storage.type, "x", "y"), storage),
            "far": storage,
            "other": [[1], None, [2]],
        }
    )


def written(table: pyarrow.Table, kind: str, path: Path, rows_per_batch: int = 2) -> Path:
    """Write a table as a file, a stream, or parquet, which has no unions."""
    if kind == "parquet":
        pyarrow.parquet.write_table(table.drop_columns(["union", "runs", "extension"]), path)
        return path
    with (pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return path


@pytest.mark.parametrize("kind", ["file", "stream", "parquet"])
def test_a_column_that_is_not_read_stops_nothing(kind: str, tmp_path: Path) -> None:
    path = written(hostile_table(), kind, tmp_path / "rows")
    names = parquet_column_names(path) if kind == "parquet" else arrow_column_names(path)
    assert set(names) >= {"far", "zone", "text", "other"}
    read = read_parquet_rows if kind == "parquet" else read_arrow_rows
    rows = [{"text": text, "other": other} for text, other in zip("abc", ([1], None, [2]), strict=True)]
    assert list(read(path, ("text", "other", "absent"))) == rows
    assert list(read(path, ("absent",))) == [{}, {}, {}]


@pytest.mark.parametrize("kind", ["file", "parquet"])
def test_a_value_without_a_form_in_python_costs_its_row(kind: str, tmp_path: Path) -> None:
    path = written(hostile_table(), kind, tmp_path / "rows")
    read = read_parquet_rows if kind == "parquet" else read_arrow_rows
    first, second, third = read(path, ("far", "text"))
    assert second == {"far": datetime.datetime(1970, 1, 1, 0, 0, 1), "text": "b"}
    for row, dropped in ((1, first), (3, third)):
        assert isinstance(dropped, MalformedDataError)
        assert re.search(rf"rows, row {row}, column 'far': a value of timestamp\[\w+\] cannot be read", str(dropped))
    if kind == "file":
        assert [row["union"] for row in read(path, ("union",))] == [1, "b", 3]
        with pytest.raises(MalformedDataError, match=r"column .runs. has the type run_end_encoded.*is not supported"):
            list(read(path, ("runs",)))


def test_text_that_is_not_utf8_costs_its_row_at_any_depth(tmp_path: Path) -> None:
    offsets, data = pyarrow.py_buffer(struct.pack("<4i", 0, 1, 2, 3)), pyarrow.py_buffer(b"a\xffb")
    texts = pyarrow.StringArray.from_buffers(3, offsets, data)
    columns = {
        "plain": texts,
        "list": pyarrow.ListArray.from_arrays([0, 1, 2, 3], texts),
        "group": pyarrow.StructArray.from_arrays([texts], ["x"]),
        "coded": pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 2], pyarrow.int8()), texts),
    }
    path = written(pyarrow.table(columns), "file", tmp_path / "rows.arrow", rows_per_batch=3)
    for name, good in (("plain", "a"), ("list", ["a"]), ("group", {"x": "a"}), ("coded", "a")):
        first, second, third = read_arrow_rows(path, (name,))
        assert first == {name: good} and isinstance(third, dict)
        assert isinstance(second, MalformedDataError) and f"row 2, column {name!r}" in str(second)


def test_a_stream_that_was_cut_between_two_messages_is_noticed(tmp_path: Path) -> None:
    path = written(table(), "stream", tmp_path / "rows.arrow", rows_per_batch=70)
    content = path.read_bytes()
    ends = []
    with pyarrow.BufferReader(content) as source:
        reader = pyarrow.ipc.open_stream(source)
        ends = [source.tell(), *(source.tell() for _ in reader)]
    for end, count in zip(ends, (0, 70, 140, 200), strict=True):
        path.write_bytes(content[:end])
        with pytest.raises(MalformedDataError, match=rf"rows\.arrow: .* has no mark .* after {count} rows"):
            list(read_arrow_rows(path, ("text",)))
    path.write_bytes(content * 2)
    with pytest.raises(MalformedDataError, match="after the 200 rows of its Arrow stream there is other data"):
        list(read_arrow_rows(path))
