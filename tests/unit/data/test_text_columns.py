"""Columns of JSON values beside the tokens of prompts: any value comes back, from its own row, or none."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.indexed import text_columns
from mindspeed_dpo.data.indexed.column_group import PAIR_COLUMNS, open_text_columns, text_columns_path
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.indexed.column_group_writer import writing
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader, TextColumnsWriter, json_text
from mindspeed_dpo.data.preprocessing import pipeline
from preprocess_data import main
from tests.support.tokenizers import save_chat_tokenizer

OWN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def preprocess(raw: Path, tokenizer: Path, prefix: Path, **options: Any) -> int:
    settings = {
        "input": raw,
        "output_prefix": prefix,
        "handler_name": "R1AlpacaStyleInstructionHandler",
        "prompt_type": "chat_template",
        "tokenizer_name_or_path": tokenizer,
        **options,
    }
    return main([f"{key}={value}" for key, value in settings.items()])


def write_file(path: Path, rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    writer = TextColumnsWriter(path, names)
    for row in rows:
        writer.append({name: json_text(row[name]) for name in names})
    writer.close()
    return writer.content_hash


def write_set(prefix: Path, prompts: list[list[int]], names: tuple[str, ...] = ("messages",), **values: Any) -> str:
    with writing(prefix, ("input_ids", "attention_mask"), names) as writer:
        for number, prompt in enumerate(prompts):
            row = {"input_ids": prompt, "attention_mask": [1] * len(prompt)}
            writer.append(row, {name: json_text(values.get(name, f"{prefix.name}{number}")) for name in names})
        writer.commit({"prompt_type": "qwen"})
    return str(prefix)


# The file


@OWN_FOLDER
@given(rows=st.lists(st.fixed_dictionaries({"a": JSON, "b": JSON}), max_size=9), batch=st.integers(1, 4))
def test_every_json_value_comes_back_from_its_row(tmp_path: Path, rows: list[dict[str, Any]], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_columns, "_BATCH_ROWS", batch)
        write_file(tmp_path / "x.arrow", rows, ("a", "b"))
    reader = TextColumnsReader(tmp_path / "x.arrow")
    assert (len(reader), reader.names) == (len(rows), ("a", "b"))
    for number in reversed(range(len(rows))):
        assert {name: reader.value(number, name) for name in "ab"} == rows[number]


def test_odd_values_come_back(tmp_path: Path) -> None:
    values = ["", "null", None, "\x00", "\ud83d", "日本 🌳 \u2028", 10**40, 1e400, {"ключ": [[], {}]}, 'a"\\b', True]
    write_file(tmp_path / "x.arrow", [{"a": value} for value in values], ("a",))
    reader = TextColumnsReader(tmp_path / "x.arrow")
    assert [reader.value(row, "a") for row in range(len(values))] == values


def test_big_rows_go_to_batches_of_their_own(tmp_path: Path) -> None:
    big = "ж" * (1 << 22)
    write_file(tmp_path / "x.arrow", [{"a": 0}, {"a": big}, {"a": 2}], ("a",))
    reader = TextColumnsReader(tmp_path / "x.arrow")
    assert [reader.value(0, "a"), reader.value(1, "a") == big, reader.value(2, "a")] == [0, True, 2]
    assert pyarrow.ipc.open_file(str(tmp_path / "x.arrow")).num_record_batches == 2


def test_how_rows_came_together_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_columns, "_BATCH_ROWS", 4)
    rows = [{"a": [number]} for number in range(11)]
    complete = write_file(tmp_path / "complete", rows, ("a",))
    write_file(tmp_path / "one", rows[:3], ("a",))
    write_file(tmp_path / "two", rows[3:], ("a",))
    joined = TextColumnsWriter(tmp_path / "joined", ("a",))
    for part in ("one", "two"):
        joined.append_all(TextColumnsReader(tmp_path / part))
    joined.close()
    assert joined.content_hash == complete
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "complete").read_bytes()


def test_dates_and_decimals_become_text_and_bytes_are_refused(tmp_path: Path) -> None:
    assert json_text([datetime.date(2024, 2, 29), Decimal("1.50")]) == '["2024-02-29", "1.50"]'
    with pytest.raises(TypeError, match="bytes has no form in JSON"):
        json_text({"a": b"x"})


def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    write_file(tmp_path / "x.arrow", [{"a": number} for number in range(50)], ("a",))
    data = (tmp_path / "x.arrow").read_bytes()
    for length in (0, 7, len(data) // 2, len(data) - 3):
        (tmp_path / "x.arrow").write_bytes(data[:length])
        with pytest.raises(TokenFileError, match=r"x\.arrow.*(damaged or truncated|empty).*preprocess again"):
            TextColumnsReader(tmp_path / "x.arrow")


def test_offsets_that_lead_out_of_the_file_are_noticed(tmp_path: Path) -> None:
    write_file(tmp_path / "x.arrow", [{"a": number} for number in range(10, 60)], ("a",))
    data = bytearray((tmp_path / "x.arrow").read_bytes())
    offsets = b"".join((2 * number).to_bytes(8, "little") for number in range(51))
    place = data.index(offsets)
    for row, value in ((50, 1 << 40), (20, 3), (0, -2)):
        damaged = bytearray(data)
        damaged[place + 8 * row : place + 8 * row + 8] = value.to_bytes(8, "little", signed=True)
        (tmp_path / "x.arrow").write_bytes(damaged)
        with pytest.raises(TokenFileError, match=r"do not lie end to end|x\.arrow, batch 0: damaged"):
            TextColumnsReader(tmp_path / "x.arrow")


def test_text_that_is_no_json_names_its_row(tmp_path: Path) -> None:
    writer = TextColumnsWriter(tmp_path / "x.arrow", ("a",))
    for text in ("1", "{"):
        writer.append({"a": text})
    writer.close()
    with pytest.raises(TokenFileError, match=r"x\.arrow, row 1, column a: line 1, column 2: invalid JSON"):
        TextColumnsReader(tmp_path / "x.arrow").value(1, "a")


def test_an_arrow_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"a": [1, 2]})
    with pyarrow.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TokenFileError, match="should be of large_string"):
        TextColumnsReader(tmp_path / "x.arrow")


# The set


def test_columns_follow_remaining_rows_over_several_sets(tmp_path: Path) -> None:
    one = write_set(tmp_path / "one", [[1], [], [2, 2, 2], [3]])
    two = write_set(tmp_path / "two", [[4, 4, 4], [5]])
    dataset = PromptDataset.open(f"{one},{two}", max_prompt_length=2)
    assert [prompt.tolist() for prompt in dataset.prompts([2, 0, 1])] == [[5], [1], [3]]
    assert dataset.columns([2, 0, 1]) == {"messages": ["two1", "one0", "one3"]}
    with pytest.raises(IndexError, match="row 3 is outside 0 to 2"):
        dataset.columns([3])


def test_all_columns_means_those_of_every_set(tmp_path: Path) -> None:
    one = write_set(tmp_path / "one", [[1]], ("messages", "labels", "level"), level=3)
    two = write_set(tmp_path / "two", [[1]], ("messages", "level"), level=[4])
    dataset = PromptDataset.open(f"{one},{two}")
    assert dataset.column_names == ("messages", "level")
    assert dataset.columns([0, 1]) == {"messages": ["one0", "two0"], "level": [3, [4]]}
    assert dataset.columns([1], ["level"]) == {"level": [[4]]}
    with pytest.raises(
        ValueError, match=r"two: prompts have no column 'labels', only messages, level.*again with it in"
    ):
        dataset.columns([0], ["labels"])


def test_sets_made_before_still_open_and_say_what_is_missing(tmp_path: Path) -> None:
    old = write_set(tmp_path / "old", [[1], [2]], ())
    new = write_set(tmp_path / "new", [[3]])
    assert "text_columns" not in (read_meta(old) or {})
    dataset = PromptDataset.open(f"{new},{old}")
    assert [prompt.tolist() for prompt in dataset.prompts(range(3))] == [[3], [1], [2]]
    assert dataset.column_names == ()
    with pytest.raises(
        ValueError, match=r"old: there is no .*old_packed_columns\.arrow.*Run preprocess_data\.py again"
    ):
        dataset.columns([0])


def test_columns_of_another_run_are_noticed_on_opening(tmp_path: Path) -> None:
    path = write_set(tmp_path / "a", [[1], [2]])
    other = write_set(tmp_path / "b", [[1], [2], [3]])
    text_columns_path(other).replace(text_columns_path(path))
    with pytest.raises(TokenFileError, match=r"has 3 rows, but the token columns have 2"):
        PromptDataset.open(path)


def test_a_crash_in_the_middle_leaves_the_set_that_was_there(tmp_path: Path) -> None:
    path = write_set(tmp_path / "a", [[1]])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with (
        pytest.raises(KeyError, match="messages"),
        writing(path, ("input_ids", "attention_mask"), ("messages",)) as writer,
    ):
        row = {"input_ids": [7], "attention_mask": [1]}
        writer.append(row, {"messages": "[]"})
        writer.append(row, {})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_prompt_set_without_columns_leaves_none_of_the_old_one_behind(tmp_path: Path) -> None:
    path = write_set(tmp_path / "a", [[1]])
    with writing(path, ("chosen_input_ids",)) as writer:
        writer.append({"chosen_input_ids": [1]})
        writer.commit({})
    assert PromptDataset.open(path).columns([0]) == {"messages": ["a0"]}
    write_set(tmp_path / "a", [[1]], ())
    assert not text_columns_path(path).exists()


def test_other_values_make_another_content_hash(tmp_path: Path) -> None:
    hashes = {
        (read_meta(write_set(tmp_path / name, [[1]], level=level, names=("level",))) or {})["content_hash"]
        for name, level in (("a", 1), ("b", 1), ("c", "1"))
    }
    assert len(hashes) == 2


# Merging


def merge(folder: Path, output: Path) -> int:
    keys = ["--merge-group-keys", "input_ids", "attention_mask"]
    return main(["--input", str(folder), "--output-prefix", str(output), *keys])


def test_merging_carries_them_along(tmp_path: Path) -> None:
    for part in (10, 2):
        write_set(tmp_path / "parts" / f"part_{part}", [[part], [part + 1]])
    assert merge(tmp_path / "parts", tmp_path / "all") == 0
    dataset = PromptDataset.open(str(tmp_path / "all"))
    assert [prompt.tolist() for prompt in dataset.prompts(range(4))] == [[2], [3], [10], [11]]
    assert dataset.columns(range(4))["messages"] == ["part_20", "part_21", "part_100", "part_101"]
    assert (read_meta(tmp_path / "all") or {})["text_columns"] == ["messages"]


def test_sets_without_them_are_merged_with_their_kind_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "parts" / "a", [[1]], ())
    write_set(tmp_path / "parts" / "b", [[2]], ())
    assert merge(tmp_path / "parts", tmp_path / "out" / "all") == 0
    assert len(PromptDataset.open(str(tmp_path / "out" / "all"))) == 2
    write_set(tmp_path / "parts" / "b", [[2]])
    assert merge(tmp_path / "parts", tmp_path / "out" / "again") == 1
    assert "their text columns are messages and none" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("again*"))


# The command line


def test_raw_values_are_read_back_beside_the_prompt(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "instruction": "Q1",
            "input": "日本",
            "output": 42,
            "level": {"a": [1.5, None]},
            "tag": "x",
            "system": "Be kind.",
        },
        {"instruction": "  ", "output": "dropped", "level": 1, "tag": "y"},
        {"instruction": "Q2", "output": ["first", "second"], "level": "", "history": [["H", "A"]]},
        {"instruction": "Q3", "output": "", "level": 3},
    ]
    keys = {"map_keys": '{"history": "history", "system": "system"}', "dataset_additional_keys": "labels,level,tag"}
    complete = [{"history": None, "system": None, "input": None, **row} for row in rows]
    assert preprocess(save(tmp_path / "raw.jsonl", complete), tokenizer, tmp_path / "out", **keys) == 0
    assert (
        "wrote " + str(tmp_path / "out_packed_columns.arrow (messages, labels, level, tag)") in capsys.readouterr().out
    )
    dataset = PromptDataset.open(str(tmp_path / "out"))
    assert dataset.columns([0, 1]) == {
        "messages": [
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Q1\n日本"}],
            [
                {"role": "user", "content": "H"},
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "Q2"},
            ],
        ],
        "labels": ["42", "first"],
        "level": [{"a": [1.5, None]}, ""],
        "tag": ["x", None],
    }
    meta = read_meta(tmp_path / "out") or {}
    assert meta["rows_dropped"] == {"empty_prompt": 1, "empty_response": 1}
    assert meta["text_columns"] == ["messages", "labels", "level", "tag"]


def test_roles_are_those_of_messages_whatever_the_tags(tmp_path: Path, tokenizer: Path) -> None:
    turns = [("sys", "S"), ("me", "Q"), ("bot", "A"), ("me", "Q2"), ("bot", "the response")]
    raw = save(tmp_path / "raw.jsonl", [{"turns": [{"who": who, "says": says} for who, says in turns]}])
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "bot"}
    tags |= {"system_tag": "sys"}
    keys = {
        "handler_name": "R1SharegptStyleInstructionHandler",
        "map_keys": json.dumps({"messages": "turns", "tags": tags}),
        "dataset_additional_keys": "labels",
    }
    assert preprocess(raw, tokenizer, tmp_path / "out", **keys) == 0
    columns = PromptDataset.open(str(tmp_path / "out")).columns([0])
    roles = ["system", "user", "assistant", "user"]
    assert columns["messages"][0] == [
        {"role": role, "content": text} for role, text in zip(roles, ["S", "Q", "A", "Q2"], strict=True)
    ]
    assert columns["labels"] == ["the response"]


@pytest.mark.parametrize("options", [{"workers": 2}, {"n_subs": 3}])
def test_neither_processes_nor_parts_change_a_byte(
    tmp_path: Path, tokenizer: Path, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": f"Q{n}" if n % 9 else "", "output": f"A{n}", "level": n} for n in range(70)]
    raw = save(tmp_path / "raw.jsonl", rows)
    monkeypatch.setattr(pipeline, "_CHUNKS_PER_PROCESS", 1)
    monkeypatch.setattr(pipeline, "available_cores", lambda: 4)
    for name, extra in (("one", {}), ("many", options)):
        assert preprocess(raw, tokenizer, tmp_path / name / "out", dataset_additional_keys="level", **extra) == 0
    one, many = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "many"))
    assert one == many
    assert PromptDataset.open(str(tmp_path / "one" / "out")).columns([61])["level"] == [69]


def test_values_that_json_lacks_are_dropped_by_row(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"instruction": ["Q"] * 9, "blob": [None] * 8 + [b"\x00"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "raw.parquet")
    assert preprocess(tmp_path / "raw.parquet", tokenizer, tmp_path / "out", dataset_additional_keys="blob") == 0
    assert "first in row 9: the additional key blob: bytes has no form in JSON" in capsys.readouterr().out
    assert PromptDataset.open(str(tmp_path / "out")).columns(range(8), ["blob"]) == {"blob": [None] * 8}


def test_names_that_every_set_has_cannot_be_requested(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = save(tmp_path / "raw.jsonl", [{"instruction": "Q", "messages": []}])
    assert preprocess(raw, tokenizer, tmp_path / "out", dataset_additional_keys="messages,input_ids") == 2
    assert "dataset_additional_keys: input_ids, messages is always written for prompts" in capsys.readouterr().err


def test_pairs_have_no_such_file(tmp_path: Path, tokenizer: Path) -> None:
    raw = save(tmp_path / "raw.jsonl", [{"instruction": "Q", "chosen": "a", "rejected": "b"}])
    assert preprocess(raw, tokenizer, tmp_path / "out", handler_name="AlpacaStylePairwiseHandler") == 0
    assert len(PreferenceDataset.open(str(tmp_path / "out"))) == 1
    assert not text_columns_path(tmp_path / "out").exists()


PAIRS = [
    {"instruction": "Q", "chosen": "a", "rejected": "b", "gap": 0.5, "trust": 1},
    {"instruction": "Q", "chosen": "same", "rejected": "same", "gap": 9, "trust": 9},
    {"instruction": "R", "chosen": "c", "rejected": "d", "gap": -1, "trust": 0.25},
]


def pair_set(folder: Path, tokenizer: Path, rows: list[dict], **options: Any) -> str:
    raw = save(folder / "raw.jsonl", rows)
    options = {"handler_name": "AlpacaStylePairwiseHandler", "max_invalid_share": 1, **options}
    assert preprocess(raw, tokenizer, folder / "out", **options) == 0
    return str(folder / "out")


def test_numbers_stay_with_their_pair(tmp_path: Path, tokenizer: Path) -> None:
    path = pair_set(tmp_path, tokenizer, PAIRS, dataset_additional_keys="gap,trust")
    dataset = PreferenceDataset.open(path, margin_column="gap", weight_column="trust")
    batch = dataset.batch([1, 0])
    assert batch.margins is not None and batch.margins.tolist() == [-1.0, 0.5]
    assert batch.factors is not None and batch.factors.tolist() == [0.25, 1.0]
    assert PreferenceDataset.open(path).batch([0]).margins is None


def test_numbers_of_csv_files_are_texts_that_are_read_as_numbers(tmp_path: Path, tokenizer: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("instruction,chosen,rejected,gap,label\nQ,a,b,0.5,007\nR,c,d, -1e-1,1_0\n")
    options = {"handler_name": "AlpacaStylePairwiseHandler", "dataset_additional_keys": "gap,label"}
    assert preprocess(raw, tokenizer, tmp_path / "out", **options) == 0
    path = str(tmp_path / "out")
    margins = PreferenceDataset.open(path, margin_column="gap").batch([0, 1]).margins
    assert margins is not None and margins.tolist() == pytest.approx([0.5, -0.1])
    texts = open_text_columns(path, 2, PAIR_COLUMNS)
    assert texts is not None and [texts.value(row, "label") for row in (0, 1)] == ["007", "1_0"]
    with pytest.raises(ValueError, match="row 1: label is '1_0', not a finite number"):
        PreferenceDataset.open(path, margin_column="label")


@pytest.mark.parametrize("gap", [True, "nan", "inf", "1e39", 1e39, "0x10", "", None, [1], "1_0"])
def test_no_other_value_is_read_as_a_number(tmp_path: Path, tokenizer: Path, gap: Any) -> None:
    path = pair_set(tmp_path, tokenizer, [{**PAIRS[0], "gap": gap}], dataset_additional_keys="gap")
    with pytest.raises(ValueError, match=r"row 0: gap is .* not a finite number"):
        PreferenceDataset.open(path, margin_column="gap")


def test_the_report_names_the_file_of_pair_columns(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = pair_set(tmp_path, tokenizer, PAIRS, dataset_additional_keys="gap")
    assert f"wrote {path}_packed_pair_columns.arrow (gap)" in capsys.readouterr().out
    assert Path(f"{path}_packed_pair_columns.arrow").is_file()


def test_numbers_that_are_none_or_not_there_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    rows = [*PAIRS, {"instruction": "S", "chosen": "e", "rejected": "f", "gap": "wide", "trust": -1}]
    path = pair_set(tmp_path, tokenizer, rows, dataset_additional_keys="gap,trust")
    with pytest.raises(ValueError, match="row 2: gap is 'wide', not a finite number"):
        PreferenceDataset.open(path, margin_column="gap")
    with pytest.raises(ValueError, match=r"weight_column 'trust' is -1\.0 in row 2; it must not be negative"):
        PreferenceDataset.open(path, weight_column="trust")
    with pytest.raises(ValueError, match=r"no column 'gapp', only gap, trust; did you mean gap.*additional_keys"):
        PreferenceDataset.open(path, margin_column="gapp")


def test_pairs_without_columns_leave_none_of_the_old_ones_behind(tmp_path: Path, tokenizer: Path) -> None:
    pair_set(tmp_path, tokenizer, PAIRS, dataset_additional_keys="gap")
    path = pair_set(tmp_path, tokenizer, PAIRS)
    with pytest.raises(ValueError, match=r"no column 'gap', none; run preprocess_data\.py again"):
        PreferenceDataset.open(path, margin_column="gap")
