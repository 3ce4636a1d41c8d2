"""Raw files: every format gives the same rows, and what cannot be read names the file and the row."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from mindspeed_dpo.data.preprocessing.readers import InputError, read_file
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings
from mindspeed_dpo.data.preprocessing.sources import find_input

ROWS: list[dict[str, Any]] = [
    {"question": "one\ntwo, three", "answer": 'said "hi"'},
    {"question": "四五", "answer": "1"},
]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    kind = path.name.partition(".")[2]
    if kind == "json":
        path.write_text("\n  " + json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in rows).encode()))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind in ("file.arrow", "stream.arrow"):
        table = pyarrow.Table.from_pylist(rows)
        make = pyarrow.ipc.new_file if kind == "file.arrow" else pyarrow.ipc.new_stream
        with make(path, table.schema) as writer:
            writer.write_table(table)
    elif kind == "csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "parquet", "file.arrow", "stream.arrow", "csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    assert list(read_file(write(tmp_path / f"rows.{kind}"))) == ROWS


def test_text_files_give_a_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\ntwo\n")
    assert list(read_file(path)) == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": \n{"a": 3}', r"a.jsonl, row 2 \(line 3, column \d\): invalid JSON: Expecting"),
        ("a.json", '[{"a": 1},\n {"a": 2},\n {"a" 3}]', r"a.json, row 3 \(line 3\): invalid JSON"),
        ("a.json", '[{"a": 1}\n {"a": 2}]', r"a.json, after row 1 \(line 2\): invalid JSON: expected , or \]"),
        ("a.json", '[{"a": 1}, {"a": ', r"a.json, row 2 \(line 1\): invalid JSON"),
        ("a.json", '[{"a": 1}', r"a.json, after row 1 .*expected , or \]"),
        ("a.json", "[1]", "a.json, row 1: expected an object of columns, got int"),
        ("a.json", "", "a.json is empty"),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv, after row 0: not a readable csv file"),
        ("a.parquet", "nonsense", "a.parquet, after row 0: not a readable parquet file"),
        ("a.arrow", "nonsense nonsense nonsense", "a.arrow, after row 0: not a readable arrow file"),
        ("a.jsonl.gz", "nonsense", "not a readable json file"),
        ("a.xlsx", "nonsense", "the suffix '.xlsx' is not one of .json, .jsonl"),
    ],
)
def test_what_cannot_be_read_names_file_and_row(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=sentence):
        list(read_file(path))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"a": "café"}'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 text"):
        list(read_file(path))


def data(path: Path, **options: Any) -> Any:
    return find_input(PreprocessSettings(input=str(path), **options))


def test_a_folder_is_read_in_one_format_and_the_rest_is_named(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl"), write(tmp_path / "a.json"), write(tmp_path / "c.csv")
    (tmp_path / "README.md").write_text("x")
    actual = data(tmp_path)
    assert [path.name for path in actual.files] == ["a.json", "b.jsonl"]
    assert set(actual.skipped_files) == {"c.csv (not json)", "README.md (not json)"}
    assert len(list(actual.rows())) == 4


def test_held_out_splits_of_a_folder_are_not_trained_on(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        write(tmp_path / name)
    actual = data(tmp_path)
    assert [path.name for path in actual.files] == ["train-00000-of-00001.parquet"]
    assert actual.skipped_files == ("test-00000-of-00001.parquet (held-out split)",)


def test_max_samples_stops_early(tmp_path: Path) -> None:
    assert list(data(write(tmp_path / "a.jsonl"), max_samples=1).rows()) == ROWS[:1]


def test_columns_are_gathered_over_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"a": "1"}, {"a": "2", "b": "3"}])
    assert data(path).columns() == ["a", "b"]


def test_missing_and_empty_inputs_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        data(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="has no file with a supported suffix"):
        data(tmp_path)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InputError, match="has no rows"):
        data(tmp_path / "none.json").columns()


def test_a_hub_name_that_cannot_be_loaded_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no way out\nand more")

    monkeypatch.setattr("mindspeed_dpo.data.preprocessing.sources.datasets.load_dataset", offline)
    with pytest.raises(
        InputError, match=r"some/data is not an existing file or folder and could not be loaded .*: no way out$"
    ):
        find_input(PreprocessSettings(input="some/data", cache_dir=str(tmp_path))).columns()


def test_a_hub_name_is_loaded_with_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def load(path: str, **options: Any) -> list[dict[str, Any]]:
        seen.update(options, path=path)
        return ROWS

    monkeypatch.setattr("mindspeed_dpo.data.preprocessing.sources.datasets.load_dataset", load)
    (tmp_path / "params.json").write_text('{"name": "subset", "split": "test"}')
    options = {"cache_dir": "~/x", "hf_datasets_params": str(tmp_path / "params.json"), "streaming": True}
    assert list(find_input(PreprocessSettings(input="some/data", **options)).rows()) == ROWS
    assert (seen["path"], seen["name"], seen["split"], seen["streaming"]) == ("some/data", "subset", "test", True)
    assert seen["cache_dir"] == str(Path.home() / "x")
