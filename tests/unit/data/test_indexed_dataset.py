"""Token files: exact round trips, other writers' types, and damage that is noticed."""

from __future__ import annotations

import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindspeed_dpo.data.indexed.column_group import column_stem, columns_present, open_columns
from mindspeed_dpo.data.indexed.column_group_writer import ColumnGroupWriter, writing
from mindspeed_dpo.data.indexed.indexed_dataset import (
    DTYPES,
    IndexedDatasetReader,
    IndexedDatasetWriter,
    TokenFileError,
)
from mindspeed_dpo.storage.write_errors import WriteError

INT32 = st.integers(-(2**31), 2**31 - 1)
ROWS = st.lists(st.lists(INT32, max_size=20), max_size=20)
OWN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def write(stem: Path, rows: list[list[int]]) -> Path:
    writer = IndexedDatasetWriter(stem)
    for row in rows:
        writer.append(row)
    writer.close()
    return stem


def write_foreign(stem: Path, rows: list[list[int]], code: int, modes: bool = False) -> Path:
    """A column as another tool may write it, spelled out byte by byte."""
    dtype = DTYPES[code]
    stem.with_name(f"{stem.name}.bin").write_bytes(b"".join(np.array(row, dtype).tobytes() for row in rows))
    lengths = [len(row) for row in rows]
    offsets = [sum(lengths[:row]) * dtype.itemsize for row in range(len(rows))]
    marks = list(range(len(rows) + 1))
    data = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(rows), len(marks))
    data += struct.pack(f"<{len(rows)}i", *lengths) + struct.pack(f"<{len(rows)}q", *offsets)
    data += struct.pack(f"<{len(marks)}q", *marks) + (bytes(len(rows)) if modes else b"")
    stem.with_name(f"{stem.name}.idx").write_bytes(data)
    return stem


@OWN_FOLDER
@given(rows=ROWS)
def test_rows_come_back_as_written(tmp_path: Path, rows: list[list[int]]) -> None:
    reader = IndexedDatasetReader(write(tmp_path / "a", rows))
    assert len(reader) == len(rows)
    assert [reader[row].tolist() for row in range(len(rows))] == rows
    assert reader.documents.tolist() == list(range(len(rows) + 1))


@OWN_FOLDER
@given(rows=ROWS, limit=st.integers(1, 50))
def test_chunks_cover_every_row_once(tmp_path: Path, rows: list[list[int]], limit: int) -> None:
    reader = IndexedDatasetReader(write(tmp_path / "a", rows))
    covered, numbers = [], []
    for part, chunk in reader.chunks(limit):
        covered += list(range(part.start, part.stop))
        numbers += chunk.tolist()
        assert len(chunk) <= limit or part.stop == part.start + 1
    assert covered == list(range(len(rows)))
    assert numbers == [number for row in rows for number in row]


@OWN_FOLDER
@given(one=ROWS, two=ROWS)
def test_joined_columns_hold_the_rows_of_both(tmp_path: Path, one: list[list[int]], two: list[list[int]]) -> None:
    writer = IndexedDatasetWriter(tmp_path / "all")
    for name, rows in (("one", one), ("two", two)):
        writer.append_all(IndexedDatasetReader(write(tmp_path / name, rows)), chunk_numbers=7)
    writer.close()
    write(tmp_path / "expected", one + two)
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"all.{suffix}").read_bytes() == (tmp_path / f"expected.{suffix}").read_bytes()


def test_the_files_are_byte_for_byte_those_of_the_format(tmp_path: Path) -> None:
    ours, foreign = write(tmp_path / "ours", [[1, -100], [7]]), write_foreign(tmp_path / "foreign", [[1, -100], [7]], 4)
    for suffix in ("bin", "idx"):
        assert ours.with_suffix(f".{suffix}").read_bytes() == foreign.with_suffix(f".{suffix}").read_bytes()


def test_megatron_reads_the_same_rows(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    rows = [[5, 6, -100], [7], [8, 9]]
    theirs = indexed.IndexedDataset(str(write(tmp_path / "a", rows)), multimodal=False, mmap=True)
    assert [theirs[row].tolist() for row in range(len(theirs))] == rows
    assert theirs.document_indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("code", sorted(DTYPES))
@pytest.mark.parametrize("modes", [False, True])
def test_the_declared_type_is_honoured(tmp_path: Path, code: int, modes: bool) -> None:
    reader = IndexedDatasetReader(write_foreign(tmp_path / "a", [[1, 2, 3], [100]], code, modes))
    assert [reader[row].tolist() for row in range(2)] == [[1, 2, 3], [100]]
    assert reader[0].dtype == np.int32


def test_maps_are_read_only(tmp_path: Path) -> None:
    reader = IndexedDatasetReader(write(tmp_path / "a", [[1, 2]]))
    with pytest.raises(ValueError, match="read-only"):
        reader.tokens[0] = 5


@pytest.mark.parametrize("suffix", ["bin", "idx"])
@pytest.mark.parametrize("change", [-1, -4, 4])
def test_a_file_of_another_size_is_noticed(tmp_path: Path, suffix: str, change: int) -> None:
    path = write(tmp_path / "a", [[1, 2], [3]]).with_suffix(f".{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(TokenFileError, match=f"a.{suffix}"):
        IndexedDatasetReader(tmp_path / "a")


@pytest.mark.parametrize(
    ("offset", "value", "sentence"),
    [
        (0, b"X", "should start with MMIDIDX"),
        (9, b"\x02", "version 2"),
        (17, b"\x09", "type code 9"),
        (34, b"\x01", "rows do not lie end to end"),
        (42, b"\x04", "rows do not lie end to end"),
        (58, b"\x01", "document marks"),
    ],
)
def test_a_damaged_index_is_noticed(tmp_path: Path, offset: int, value: bytes, sentence: str) -> None:
    path = write(tmp_path / "a", [[1, 2], [3]]).with_suffix(".idx")
    data = bytearray(path.read_bytes())
    data[offset : offset + 1] = value
    path.write_bytes(data)
    with pytest.raises(TokenFileError, match=sentence):
        IndexedDatasetReader(tmp_path / "a")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1]])
    (tmp_path / "a.idx").write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(TokenFileError, match="is not an index of tokens"):
        IndexedDatasetReader(tmp_path / "a")


@pytest.mark.parametrize(("code", "value"), [(5, 2**40), (5, -(2**31) - 1), (6, 1.5), (6, float("nan")), (7, 2.0**31)])
def test_a_number_that_is_no_token_id_is_named_with_its_row(tmp_path: Path, code: int, value: float) -> None:
    reader = IndexedDatasetReader(write_foreign(tmp_path / "a", [[1, 2], [3, value]], code))  # type: ignore[list-item]
    assert reader[0].tolist() == [1, 2]
    with pytest.raises(TokenFileError, match=r"a.bin, row 1: .* is not a token id"):
        reader[1]


# Sets


def test_a_set_reads_exactly_its_columns(tmp_path: Path) -> None:
    prefix = tmp_path / "data[1].v2"
    for columns in (("input_ids", "attention_mask"), ("chosen_input_ids", "chosen_labels")):
        with writing(prefix, columns) as writer:
            writer.append({column: [len(columns[0])] for column in columns})
            writer.commit({})
    assert columns_present(prefix) == ["attention_mask", "chosen_input_ids", "chosen_labels", "input_ids"]
    assert open_columns(prefix, ("input_ids",))["input_ids"][0].tolist() == [len("input_ids")]
    assert column_stem(prefix, "input_ids").name == "data[1].v2_packed_input_ids_document"


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    with writing(tmp_path / "a", ("input_ids",)) as writer:
        writer.append({"input_ids": [1]})
        writer.commit({})
    with pytest.raises(FileNotFoundError, match=r"chosen_input_ids_document.idx.*prefix: input_ids\. data_path is"):
        open_columns(tmp_path / "a", ("chosen_input_ids",))
    with pytest.raises(FileNotFoundError, match="prefix: none"):
        open_columns(tmp_path / "absent" / "a", ("chosen_input_ids",))


def test_columns_of_different_runs_are_noticed(tmp_path: Path) -> None:
    write(column_stem(tmp_path / "a", "x"), [[1], [2]])
    write(column_stem(tmp_path / "a", "y"), [[1]])
    with pytest.raises(TokenFileError, match=r"different numbers of rows, \{'x': 2, 'y': 1\}"):
        open_columns(tmp_path / "a", ("x", "y"))


def test_an_uncommitted_set_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing(tmp_path / "new" / "a", ("x",)) as writer:
        writer.append({"x": [1]})
        raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []


def test_a_set_that_was_half_replaced_is_refused_until_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit(value: int) -> None:
        with writing(tmp_path / "a", ("x", "y")) as writer:
            writer.append({"x": [value], "y": [value]})
            writer.commit({})

    commit(1)
    moved = []

    def killed(source: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(source.rename(target))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mindspeed_dpo.data.indexed.column_group_writer.os.replace", killed)
        commit(2)
    with pytest.raises(TokenFileError, match="is being replaced, or a run was killed while replacing it"):
        open_columns(tmp_path / "a", ("x",))
    commit(3)
    assert open_columns(tmp_path / "a", ("x", "y"))["y"][0].tolist() == [3]


def test_a_new_set_leaves_no_column_of_the_old_one_behind(tmp_path: Path) -> None:
    for columns in (("x", "y"), ("x",), ("other",)):
        with writing(tmp_path / "a", columns) as writer:
            writer.append({column: [1] for column in columns})
            writer.commit({})
    assert columns_present(tmp_path / "a") == ["other", "x"]


def unfinished(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name)


def test_remains_of_a_killed_run_are_deleted_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    living = ColumnGroupWriter(tmp_path / "out", ("input_ids",))
    (left,) = unfinished(tmp_path)
    killed = tmp_path / left.replace("partial_", "partial_of_the_dead_")
    killed.mkdir()
    (killed / ".lock").write_text('{"host": "gone", "pid": 1, "since": "long ago"}')
    (killed / "half.bin").write_bytes(b"0")
    with writing(tmp_path / "out", ("input_ids",)) as writer:
        assert not killed.exists() and left in unfinished(tmp_path) and len(unfinished(tmp_path)) == 2
        writer.append({"input_ids": [1, 2]})
        writer.commit({})
    assert unfinished(tmp_path) == [left]
    living.discard()
    assert unfinished(tmp_path) == [] and len(open_columns(tmp_path / "out", ("input_ids",))["input_ids"]) == 1


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with (
            pytest.raises(WriteError, match="out cannot be written: File too large; free space there"),
            writing(tmp_path / "out", ("input_ids",)) as writer,
        ):
            for _ in range(100):
                writer.append({"input_ids": range(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
