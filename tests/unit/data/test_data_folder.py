"""Folders: the files of the training split in one format, whatever else lies beside them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from mindspeed_dpo.data.preprocessing.data_folder import select_files
from mindspeed_dpo.data.preprocessing.readers import InputError, read_file


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return folder


def test_empty_parts_of_a_folder_cost_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "part-0.jsonl", "part-1.jsonl", "part-2.csv")
    (tmp_path / "part-3.jsonl").write_text("")
    os.mkfifo(tmp_path / "part-4.jsonl")
    (tmp_path / "part-5.jsonl").symlink_to("absent")
    files, skipped = select_files(tmp_path)
    assert [file.name for file in files] == ["part-0.jsonl", "part-1.jsonl"]
    assert {"part-3.jsonl (empty)", "part-4.jsonl (no regular file)", "part-5.jsonl (a broken link)"} < set(skipped)


def test_empty_parquet_is_a_lost_file(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": ["b"]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("")
    files, _ = select_files(tmp_path)
    with pytest.raises(InputError, match=r"b.parquet is empty"):
        [list(read_file(file)) for file in files]


def names(folder: Path) -> list[str]:
    files, _ = select_files(folder)
    return [str(path.relative_to(folder)) for path in files]


@pytest.mark.parametrize(
    ("present", "expected", "skipped"),
    [
        (["b.jsonl", "a.json", "c.csv", "x.md"], ["a.json", "b.jsonl"], {"c.csv (not json)", "x.md (not json)"}),
        (["train-0.parquet", "test-0.parquet"], ["train-0.parquet"], {"test-0.parquet (held-out split)"}),
        (["a.parquet", "dataset_infos.json", "x.json.lock"], ["a.parquet"],
         {"dataset_infos.json (metadata)", "x.json.lock (not parquet)"}),
        (["a.parquet", "stats.json"], ["a.parquet"], {"stats.json (not parquet)"}),
        (["data.jsonl", "LICENSE.txt", "README.txt"], ["data.jsonl"],
         {"LICENSE.txt (metadata)", "README.txt (metadata)"}),
        ([".hidden.json", "a.json", "old/b.json"], ["a.json"], {".hidden.json (hidden)", "old (a folder)"}),
        (
            ["README.md", "data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", ".cache/x.parquet"],
            ["data/train-0.parquet", "data/train-1.parquet"],
            {"README.md (not parquet)", "data/test-0.parquet (held-out split)", ".cache/x.parquet (hidden)"},
        ),
        (
            ["train/0.jsonl", "validation/0.jsonl", "config.json"],
            ["train/0.jsonl"],
            {"validation/0.jsonl (held-out split)", "config.json (metadata)"},
        ),
        (["h/train.jsonl.gz", "h/test.jsonl.gz", "k/train.jsonl.gz"], ["h/train.jsonl.gz", "k/train.jsonl.gz"],
         {"h/test.jsonl.gz (held-out split)"}),
        (["x-train.arrow", "x-test.arrow", "cache-1a2b.arrow", "dataset_info.json"], ["x-train.arrow"],
         {"x-test.arrow (held-out split)", "cache-1a2b.arrow (metadata)", "dataset_info.json (metadata)"}),
    ],
)  # fmt: skip
def test_a_folder_is_read_in_one_format_and_the_rest_is_named(
    tmp_path: Path, present: list[str], expected: list[str], skipped: set[str]
) -> None:
    folder = fill(tmp_path, *present)
    assert names(folder) == expected
    assert set(select_files(folder)[1]) == skipped


def test_a_saved_dataset_is_read_in_the_order_of_its_rows(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_dict({"a": [str(n) for n in range(30)]})
    saved.save_to_disk(str(tmp_path), num_shards=12)
    fill(tmp_path, "data-00000-of-00002.arrow")
    files, skipped = select_files(tmp_path)
    assert [row["a"] for path in files for row in read_file(path)] == [str(n) for n in range(30)]
    assert set(skipped) == {
        "dataset_info.json (metadata)", "state.json (metadata)", "data-00000-of-00002.arrow (not listed in state.json)",
    }  # fmt: skip


def test_a_saved_dictionary_of_splits_gives_the_training_split(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_dict({"a": [name]}) for name in ("test", "train")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path))
    files, skipped = select_files(tmp_path)
    assert [row for path in files for row in read_file(path)] == [{"a": "train"}]
    assert "test (held-out split)" in skipped


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ("7", "dataset_dict.json: splits must be a list"),
        ('["a", "b"]', "has the splits a, b; choose one, as input="),
        ('["train_gen", "train_sft"]', "has the splits train_gen, train_sft; choose one"),
        ('["../x"]', "lists ../x, which is not a name in its folder"),
        ("[]", "has no splits"),
    ],
)
def test_splits_that_cannot_be_chosen_get_a_sentence(tmp_path: Path, splits: str, sentence: str) -> None:
    (tmp_path / "dataset_dict.json").write_text(f'{{"splits": {splits}}}')
    with pytest.raises(InputError, match=sentence):
        select_files(tmp_path)


def test_a_shard_that_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    with pytest.raises(InputError, match=r"state.json lists data-0.arrow, which is not in the folder"):
        select_files(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"a": ["x"]}), tmp_path / "x.parquet")
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"state.json lists no data files"):
        select_files(tmp_path)


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "gone")
    assert select_files(tmp_path)[1] == ("b.json (a broken link)",)
