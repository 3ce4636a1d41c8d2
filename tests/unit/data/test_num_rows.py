"""The estimated number of rows, from which the share of preprocessing follows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mindspeed_dpo.data.preprocessing import num_rows
from mindspeed_dpo.data.preprocessing.input_sources import find_input
from mindspeed_dpo.data.preprocessing.num_rows import estimated_rows
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings


def estimate(path: Path, max_samples: int | None = None) -> int | None:
    return estimated_rows(find_input(PreprocessSettings(input=str(path), max_samples=max_samples)))


def write_lines(path: Path, count: int) -> Path:
    path.write_text("".join(json.dumps({"text": "row"}) + "\n" for _ in range(count)))
    return path


def test_lines_of_a_file_are_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_lines(tmp_path / "rows.jsonl", 1000)
    assert estimate(file) == 1000 and estimate(file, max_samples=7) == 7
    monkeypatch.setattr(num_rows, "_SAMPLE_BYTES", 10 * len(json.dumps({"text": "row"}) + "\n"))
    assert estimate(file) == 1000


def test_rows_of_all_files_of_a_folder_are_added(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", 3)
    write_lines(tmp_path / "b.jsonl", 4)
    assert estimate(tmp_path) == 7


def test_a_parquet_file_names_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["row"] * 12}), file)
    assert estimate(file) == 12
    file.write_bytes(b"no parquet")
    assert estimate(file) is None


def test_where_only_reading_tells_there_is_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text('[{"text": "row"}, {"text": "row"}]')
    assert estimate(tmp_path / "list.json") is None
    (tmp_path / "rows.jsonl.gz").write_bytes(b"")
    assert estimate(tmp_path / "rows.jsonl.gz") is None
