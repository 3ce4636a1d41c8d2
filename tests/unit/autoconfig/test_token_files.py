"""Tokens of raw data are made once and found again by their content; token files are taken as they are."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from pathlib import Path

import pytest

from mindspeed_dpo.autoconfig.data_request import DataRequest
from mindspeed_dpo.autoconfig.token_files import DESCRIPTION, default_prompt_type, existing_prefix, token_files
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, open_columns
from mindspeed_dpo.storage.process_lock import ProcessLock
from mindspeed_dpo.storage.write_errors import WriteError
from tests.unit.autoconfig.quick_inputs import PAIRS, model_folder, write_rows


@pytest.fixture
def request_of(tmp_path: Path) -> DataRequest:
    return DataRequest("pair", str(model_folder()), cache_dir=str(tmp_path / "cache"))


def made(path: Path | str, request: DataRequest) -> tuple[str, str]:
    lines: list[str] = []
    return token_files(str(path), request, lines.append), "\n".join(lines)


def test_the_second_run_finds_the_tokens_of_the_first(tmp_path: Path, request_of: DataRequest) -> None:
    data = write_rows(tmp_path / "pairs.jsonl")
    first, shown = made(data, request_of)
    assert "70 of 70 rows" in shown and "prompt_type=chat_template" in shown
    written = Path(first + "_packed_chosen_labels_document.bin").stat().st_mtime_ns
    again, shown = made(data, request_of)
    assert again == first and "made by an earlier run" in shown
    assert Path(first + "_packed_chosen_labels_document.bin").stat().st_mtime_ns == written
    assert made(data.rename(tmp_path / "pairs.other.jsonl"), request_of)[0] == first, "the content counts, not the name"


def test_other_content_settings_or_templates_are_other_tokens(tmp_path: Path, request_of: DataRequest) -> None:
    data = write_rows(tmp_path / "pairs.jsonl")
    prefixes = [made(data, request_of)[0]]
    prefixes.append(made(data, dataclasses.replace(request_of, settings={"response_end": "end_token"}))[0])
    prefixes.append(made(data, dataclasses.replace(request_of, settings={"prompt_type": "plain"}))[0])
    prefixes.append(made(data, dataclasses.replace(request_of, settings={"max_samples": 9}))[0])
    write_rows(data, [*PAIRS[:-1], {**PAIRS[-1], "chosen": "Otherwise."}])
    prefixes.append(made(data, request_of)[0])
    assert len(set(prefixes)) == len(prefixes)


@pytest.mark.parametrize("damage", ["no description", "fewer rows", "no column"])
def test_incomplete_tokens_are_made_again(damage: str, tmp_path: Path, request_of: DataRequest) -> None:
    data = write_rows(tmp_path / "pairs.jsonl")
    prefix, _ = made(data, request_of)
    description = Path(prefix).parent / DESCRIPTION
    if damage == "no description":
        description.unlink()
    elif damage == "fewer rows":
        description.write_text(json.dumps({"num_written": 3}))
    else:
        Path(prefix + "_packed_rejected_labels_document.idx").unlink()
    assert made(data, request_of)[0] == prefix
    assert len(open_columns(prefix, PAIR_COLUMNS)[PAIR_COLUMNS[0]]) == 70


def test_rows_that_cannot_be_used_leave_no_tokens(tmp_path: Path, request_of: DataRequest) -> None:
    data = write_rows(tmp_path / "pairs.jsonl", [{**PAIRS[0], "chosen": "x" * n} for n in range(1, 4)])
    prefix, _ = made(data, request_of)
    same = write_rows(tmp_path / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}, *[{"a": 1}] * 9])
    with pytest.raises(ValueError, match=r"cannot be read as|malformed"):
        made(same, request_of)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [Path(prefix).parent.name]


def test_a_run_waits_for_another_that_makes_the_same_tokens(
    tmp_path: Path, request_of: DataRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_rows(tmp_path / "pairs.jsonl")
    prefix, _ = made(data, request_of)
    other = ProcessLock(Path(prefix).parent / "lock")
    other.acquire()
    monkeypatch.setattr("time.sleep", lambda seconds: other.release())
    assert made(data, request_of)[0] == prefix
    assert f"waiting for process {os.getpid()}" in caplog.text


def test_compressed_files_and_folders_are_raw_data(tmp_path: Path, request_of: DataRequest) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in PAIRS).encode()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.jsonl.gz").write_bytes(gzip.compress(lines))
    prefixes = [made(tmp_path / "raw" / "train.jsonl.gz", request_of)[0], made(tmp_path / "raw", request_of)[0]]
    assert all(len(open_columns(prefix, PAIR_COLUMNS)[PAIR_COLUMNS[0]]) == 70 for prefix in prefixes)


def test_token_files_are_named_in_any_of_the_ways_they_are_written(tmp_path: Path, request_of: DataRequest) -> None:
    prefix, _ = made(write_rows(tmp_path / "pairs.jsonl"), request_of)
    for written in (prefix, f"{prefix}_packed", f"{prefix}_packed_chosen_labels_document.bin"):
        assert made(written, request_of) == (prefix, "")
    assert existing_prefix(str(tmp_path / "nothing")) is None


def test_without_a_chat_template_texts_are_joined(tmp_path: Path) -> None:
    assert default_prompt_type(str(model_folder())) == "chat_template"
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert default_prompt_type(str(tmp_path)) == "plain" == default_prompt_type(str(tmp_path / "nothing"))


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path, request_of: DataRequest) -> None:
    (tmp_path / "file").write_text("")
    data = write_rows(tmp_path / "pairs.jsonl")
    with pytest.raises(WriteError, match="file"):
        made(data, dataclasses.replace(request_of, cache_dir=str(tmp_path / "file")))
