"""Token files that change while a run reads them: cut ones are refused before their pages are, others can be read."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from mindspeed_dpo.data.indexed.indexed_dataset import IndexedDatasetReader, IndexedDatasetWriter
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader, TextColumnsWriter
from mindspeed_dpo.data.indexed.unchanged_file import ChangedFileError


@pytest.fixture
def reader(tmp_path: Path) -> IndexedDatasetReader:
    return written(tmp_path / "a", [[1, 2, 3], [4, 5]])


def written(stem: Path, rows: list[list[int]]) -> IndexedDatasetReader:
    writer = IndexedDatasetWriter(stem)
    for row in rows:
        writer.append(row)
    writer.close()
    return IndexedDatasetReader(stem)


def test_a_file_that_was_cut_is_named_by_every_way_to_read_it(reader: IndexedDatasetReader, tmp_path: Path) -> None:
    os.truncate(reader.bin_path, 0)
    sentence = rf"{reader.bin_path} has changed since it was opened: it had 20 bytes and has 0; preprocess again"
    with pytest.raises(ChangedFileError, match=sentence):
        reader[0]
    with pytest.raises(ChangedFileError, match=sentence):
        list(reader.chunks(2))
    with pytest.raises(ChangedFileError, match=sentence):
        IndexedDatasetWriter(tmp_path / "b").append_all(reader)


def test_a_text_column_that_was_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a_packed_columns.arrow"
    writer = TextColumnsWriter(path, ["answer"])
    writer.append({"answer": '"four"'})
    writer.close()
    reader = TextColumnsReader(path)
    assert reader.value(0, "answer") == "four"
    os.truncate(path, 8)
    with pytest.raises(ChangedFileError, match=rf"{path} has changed since it was opened: it had \d+ bytes and has 8"):
        reader.value(0, "answer")
    with pytest.raises(ChangedFileError, match="has changed since it was opened"):
        list(reader.texts())


def test_a_file_that_was_replaced_or_deleted_is_read_as_it_was_opened(
    reader: IndexedDatasetReader, tmp_path: Path
) -> None:
    os.replace(written(tmp_path / "b", [[9]]).bin_path, reader.bin_path)
    assert reader[1].tolist() == [4, 5]
    reader.bin_path.unlink()
    assert reader[0].tolist() == [1, 2, 3]


def test_a_file_that_was_touched_is_reported_once(
    reader: IndexedDatasetReader, caplog: pytest.LogCaptureFixture
) -> None:
    os.utime(reader.bin_path, (1, 1))
    with caplog.at_level(logging.WARNING):
        assert [reader[row].tolist() for row in (0, 1)] == [[1, 2, 3], [4, 5]]
    assert caplog.messages == [f"{reader.bin_path} was written to or touched since it was opened; its size is the same"]
