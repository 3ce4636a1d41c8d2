"""Merge mode: complete sets joined in numeric order, by exact column names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.data.indexed.column_group import open_columns
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.indexed.column_group_writer import writing
from preprocess_data import main

COLUMNS = ("chosen_labels", "labels")


def write(prefix: Path, values: list[int], columns: tuple[str, ...] = COLUMNS, **meta: Any) -> None:
    with writing(prefix, columns) as writer:
        for value in values:
            writer.append({column: [value, len(column)] for column in columns})
        writer.commit({"tokenizer_fingerprint": "t", "prompt_type": "qwen", **meta})


def merge(folder: Path, output: Path, *keys: str) -> int:
    return main(["--input", str(folder), "--output-prefix", str(output), "--merge-group-keys", *keys])


@pytest.mark.parametrize("keys", [COLUMNS, ("packed_chosen_labels_document", "packed_labels_document")])
def test_sets_are_joined_in_numeric_order(tmp_path: Path, keys: tuple[str, ...]) -> None:
    for part in (10, 2, 0):
        write(tmp_path / "parts_7" / f"part_{part}", [part, part + 100])
    assert merge(tmp_path / "parts_7", tmp_path / "all", *keys) == 0
    columns = open_columns(tmp_path / "all", COLUMNS)
    for column, reader in columns.items():
        assert [reader[row].tolist() for row in range(6)] == [[n, len(column)] for n in (0, 100, 2, 102, 10, 110)]
        assert reader.documents.tolist() == list(range(7))
    meta = read_meta(tmp_path / "all")
    assert meta is not None
    assert (meta["tokenizer_fingerprint"], meta["rows"]) == ("t", 6)
    assert meta["merged"] == ["part_0", "part_2", "part_10"]


def test_the_output_may_lie_in_the_folder_and_is_not_merged_again(tmp_path: Path) -> None:
    write(tmp_path / "a", [1])
    for _ in range(2):
        assert merge(tmp_path, tmp_path / "all", *COLUMNS) == 0
    assert len(open_columns(tmp_path / "all", COLUMNS)["labels"]) == 1


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (("labels",), "must name exactly the columns of each dataset"),
        (("input_ids",), "has the columns input_ids"),
    ],
)
def test_sets_are_merged_completely_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: tuple[str, ...], sentence: str
) -> None:
    write(tmp_path / "a", [1])
    assert merge(tmp_path, tmp_path / "out" / "all", *keys) == 1
    assert sentence in capsys.readouterr().err
    assert not list((tmp_path).glob("out/*"))


def test_sets_of_different_tokenizers_are_not_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a", [1])
    write(tmp_path / "b", [1], tokenizer_fingerprint="other")
    assert merge(tmp_path, tmp_path / "all", *COLUMNS) == 1
    assert "preprocessed with different tokenizer_fingerprint" in capsys.readouterr().err


def test_a_missing_folder_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(tmp_path / "nothing", tmp_path / "all", *COLUMNS) == 1
    assert "a merge needs a folder of datasets" in capsys.readouterr().err
