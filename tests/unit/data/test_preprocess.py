"""The command line from raw files to token files: each row accounted for, each fault a sentence, nothing half-done."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mindspeed_dpo.config.shipped_files import PROJECT as ROOT
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.indexed.column_group import open_columns
from mindspeed_dpo.data.indexed.column_group_metadata import read_meta
from mindspeed_dpo.data.preprocessing import pipeline
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer, tokenizer_fingerprint
from preprocess_data import main
from tests.support.conversations import conversations
from tests.support.tokenizers import CHAT_TEMPLATE, CHAT_TOKENS, save_chat_tokenizer, save_tokenizer, text_of


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def rows(count: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Q{n}", "chosen": f"good {n}", "rejected": f"bad {'x' * (n % 7)}"} for n in range(count)]


def save(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in content))
    return path


def words(raw: Path, tokenizer: Path, prefix: Path, **options: Any) -> list[str]:
    settings = {
        "input": raw,
        "output_prefix": prefix,
        "handler_name": "AlpacaStylePairwiseHandler",
        "prompt_type": "chat_template",
        "tokenizer_name_or_path": tokenizer,
        **options,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


# Every row is accounted for


def test_one_bad_row_in_ten_leaves_nine_and_says_why(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = rows(10)
    content[3]["instruction"] = 7
    raw = save(tmp_path / "raw.jsonl", content)
    assert main(words(raw, tokenizer, tmp_path / "new" / "folder" / "out")) == 0
    dataset = PreferenceDataset.open(str(tmp_path / "new" / "folder" / "out"))
    first_words = [text_of(load_tokenizer(tokenizer), prompt.tolist()) for prompt in dataset.batch(range(9)).prompts()]
    assert [text.split("Q")[1][0] for text in first_words] == list("012456789")
    out = capsys.readouterr().out
    assert re.search(r"rows read +10\n +rows written +9\n", out)
    assert re.search(r"dropped: not_text +1 .*first in row 4: the prompt should be text, but is int", out)


def test_rows_that_cannot_be_read_or_tokenized_do_not_cost_the_others(
    tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = [json.dumps({**row, "input": None, "ki\ud83d": "x"}).encode() for row in rows(20)]
    content[3] = b'{"instruction": "caf\xe9", "chosen": "a", "rejected": "b"}'
    content[5] = b'{"instruction": "Q", "chosen": "a \\ud83d b", "rejected": "b"}'
    content[7] = content[7][:-9]
    raw = tmp_path / "raw.jsonl"
    raw.write_bytes(b"\n".join(content))
    assert main(words(raw, tokenizer, tmp_path / "out")) == 0
    assert len(PreferenceDataset.open(str(tmp_path / "out"))) == 17
    out = capsys.readouterr().out
    assert re.search(r"rows read +20\n +rows written +17\n", out)
    assert re.search(r"dropped: unreadable +2 .*first in row 4: .*raw.jsonl, line 4 is not UTF-8", out)
    assert re.search(r"dropped: not_unicode +1 .*first in row 6: character \d+ of a text: '.ud83d'", out)
    assert "columns not read: ki\\ud83d\n" in out


def test_a_prompt_that_its_template_changes_is_not_trained_as_a_response(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = "{% for m in messages %}{{ m.content }}{% if loop.last %} {{ loop.length }}{% endif %}{% endfor %}"
    own = save_tokenizer(tmp_path / "tokenizer", chat_template=template)
    assert main(words(save(tmp_path / "raw.jsonl", rows(2)), own, tmp_path / "out")) == 1
    sentence = "2 changed_by_response: the chat template renders the prompt differently once a response follows"
    assert sentence in capsys.readouterr().err


def test_a_template_that_changes_by_itself_is_not_trained_as_a_response(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its texts differ early, so that all that follows would belong to the responses."""
    template = "<s>{{ strftime_now('%f') }}{% for m in messages %}{{ m.content }}{% endfor %}"
    own = save_tokenizer(tmp_path / "tokenizer", chat_template=template)
    assert main(words(save(tmp_path / "raw.jsonl", rows(2)), own, tmp_path / "out")) == 1
    assert "2 changed_by_response: " in (err := capsys.readouterr().err)
    assert "the chat template renders the same messages differently each time" in err


def test_the_description_adds_up(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = [
        *rows(5),
        {"instruction": "Q", "chosen": "same", "rejected": "same"},
        {"instruction": "Q", "chosen": "x"},
    ]
    content += [{"instruction": "Q" * 90, "chosen": "a", "rejected": "b"}]
    raw = save(tmp_path / "raw.jsonl", content)
    assert main(words(raw, tokenizer, tmp_path / "out", seq_length=64)) == 0
    out = capsys.readouterr().out
    assert [f"first in row {row}" in out for row in (5, 6, 7, 8, 9)] == [False, True, True, True, False]
    meta = read_meta(tmp_path / "out")
    assert meta is not None
    assert (meta["rows_in"], meta["rows_kept"], meta["rows"]) == (8, 5, 5)
    assert meta["rows_dropped"] == {"identical_responses": 1, "missing_column": 1, "too_long": 1}
    assert meta["seq_length"] == 64 and meta["prompt_type"] == "chat_template"
    assert meta["tokenizer_fingerprint"] == tokenizer_fingerprint(tokenizer)
    lengths = PreferenceDataset.open(str(tmp_path / "out")).lengths()
    assert meta["longest"]["rejected_input_ids"] == (lengths[:, 0] + lengths[:, 2]).max()


def test_rows_as_long_as_the_limit_are_dropped(tmp_path: Path, tokenizer: Path) -> None:
    raw = save(tmp_path / "raw.jsonl", rows(7))
    assert main(words(raw, tokenizer, tmp_path / "all")) == 0
    lengths = PreferenceDataset.open(str(tmp_path / "all")).lengths()
    longest = lengths[:, 0] + lengths[:, 1:].max(axis=1)
    limit = int(longest.max())
    assert main(words(raw, tokenizer, tmp_path / "some", seq_length=limit)) == 0
    assert len(PreferenceDataset.open(str(tmp_path / "some"))) == int((longest < limit).sum())


def test_responses_without_tokens_go_to_no_column(tmp_path: Path) -> None:
    bare = save_tokenizer(tmp_path / "tokenizer")
    content = [{"instruction": "Q", "chosen": "", "rejected": "b"}, *rows(2)]
    raw = save(tmp_path / "raw.jsonl", content)
    assert main(words(raw, bare, tmp_path / "out", prompt_type="empty")) == 0
    assert {
        len(reader) for reader in open_columns(tmp_path / "out", ("chosen_labels", "rejected_labels")).values()
    } == {2}


def test_responses_that_differ_only_in_text_are_identical(tmp_path: Path) -> None:
    """With thoughts removed both are equal, which their text alone does not show."""
    content = [{"instruction": "Q", "chosen": "<think>x</think>\n\nA", "rejected": "A"}, *rows(1)]
    raw = save(tmp_path / "raw.jsonl", content)
    bare = save_tokenizer(tmp_path / "tokenizer", special=["<|im_end|>"])
    assert main(words(raw, bare, tmp_path / "out", prompt_type="qwen3", enable_thinking="false")) == 0
    meta = read_meta(tmp_path / "out")
    assert meta is not None and meta["rows_dropped"] == {"identical_responses": 1}


def test_prompt_sets_hold_prompts_and_what_rewards_need(tmp_path: Path, tokenizer: Path) -> None:
    raw = save(tmp_path / "raw.jsonl", [{"problem": f"Q{n}", "answer": n, "level": "hard"} for n in range(3)])
    options = {
        "handler_name": "R1AlpacaStyleInstructionHandler",
        "map_keys": '{"prompt": "problem", "response": "answer"}',
        "dataset_additional_keys": "labels,level",
    }
    assert main(words(raw, tokenizer, tmp_path / "out", **options)) == 0
    columns = open_columns(tmp_path / "out", ("input_ids", "attention_mask", "labels", "level"))
    loaded = load_tokenizer(tokenizer)
    assert text_of(loaded, columns["input_ids"][1].tolist()) == "<s><|user|>Q1<|end|><|assistant|>"
    assert columns["attention_mask"][1].tolist() == [1] * len(columns["input_ids"][1])
    assert text_of(loaded, columns["labels"][2].tolist()) == "2"
    assert text_of(loaded, columns["level"][0].tolist()) == "hard"
    assert len(PromptDataset.open(str(tmp_path / "out"))) == 3


# Ready datasets, on a few rows of their form

READY: dict[str, dict[str, Any]] = {
    "orca_rlhf": {"system": "S", "question": "Q", "chosen": "good", "rejected": "bad"},
    "pku_saferlhf": {"prompt": "Q", "response_0": "bad", "response_1": "good", "better_response_id": 1},
    "stack_exchange_paired": {"question": "Q", "response_j": "good", "response_k": "bad", "qid": 5},
    "ultrafeedback_binarized": {
        "prompt": "Q",
        "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}],
    },
    "hh_rlhf": {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
    "dpo_en_demo": {
        "conversations": [{"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    "descriptiveness": {"prompt": "Q"},
    "deepscaler": {"problem": "Q", "answer": "good"},
}


@pytest.mark.parametrize("name", READY)
def test_ready_data_sets_read_their_rows(tmp_path: Path, name: str) -> None:
    tokens = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|end|>"]
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    own = save_tokenizer(tmp_path / "tokenizer", special=tokens, chat_template=template)
    raw = save(tmp_path / "raw.jsonl", [READY[name]] * 2)
    overrides = {"input": raw, "output_prefix": tmp_path / "out", "tokenizer_name_or_path": own, "workers": 1}
    assert main([name, *(f"{key}={value}" for key, value in overrides.items())]) == 0
    loaded = load_tokenizer(own)
    if name in ("descriptiveness", "deepscaler"):
        (prompt,) = PromptDataset.open(str(tmp_path / "out")).prompts([1])
        assert "Q" in text_of(loaded, prompt.tolist())
        return
    batch = PreferenceDataset.open(str(tmp_path / "out")).batch([1])
    assert "Q" in text_of(loaded, batch.prompts()[0].tolist())
    chosen, rejected = (text_of(loaded, ids.tolist()) for ids in batch.responses()[0])
    assert "good" in chosen and "bad" in rejected


@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_conversations_are_accounted_for_to_the_last_row(tmp_path: Path, tokenizer: Path, language: str) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps(conversations(language, 300), ensure_ascii=False), encoding="utf-8")
    prefix = tmp_path / "out"
    options = {"handler_name": "SharegptStylePairwiseHandler", "seq_length": 4096}
    assert main(words(raw, tokenizer, prefix, **options)) == 0
    meta = read_meta(prefix)
    assert meta is not None and meta["rows_in"] == 300
    assert meta["rows_kept"] + sum(meta["rows_dropped"].values()) == 300
    assert set(meta["rows_dropped"]) == {"too_long"}
    dataset = PreferenceDataset.open(str(prefix))
    assert 300 > len(dataset) == meta["rows_kept"] > 150
    loaded = load_tokenizer(tokenizer)
    batch = dataset.batch([len(dataset) - 1])
    got = [text_of(loaded, ids.tolist()) for ids in (batch.prompts()[0], *batch.responses()[0])]
    # Every byte is a token here, so which rows fit and what the template makes of them can be computed by hand.
    written = [by_hand(row) for row in json.loads(raw.read_text(encoding="utf-8"))]
    expected_rows = [texts for texts in written if max(length_of(texts[0], response) for response in texts[1:]) < 4096]
    assert len(expected_rows) == len(dataset)
    assert tuple(got) == expected_rows[-1]


def by_hand(row: dict[str, Any]) -> tuple[str, str, str]:
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    turns = "".join(f"<|{roles[turn['from']]}|>{turn['value']}<|end|>" for turn in row["conversations"])
    return f"<s>{turns}<|assistant|>", f"{row['chosen']['value']}<|end|>", f"{row['rejected']['value']}<|end|>"


def length_of(*texts: str) -> int:
    text = "".join(texts)
    for token in ("<s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"):
        text = text.replace(token, "\x00")
    return len(text.encode())


# How the work is divided changes nothing


@pytest.mark.parametrize("options", [{"workers": 2}, {"n_subs": 3}, {"n_subs": 7}])
def test_the_output_does_not_depend_on_processes_and_parts(
    tmp_path: Path, tokenizer: Path, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_CHUNKS_PER_PROCESS", 1)
    monkeypatch.setattr(pipeline, "available_cores", lambda: 4)
    content = rows(150)
    content[90]["chosen"] = "half \ud83d"
    content[100]["chosen"] = ""
    raw = save(tmp_path / "raw.jsonl", content[: 5 if options.get("n_subs") == 7 else 150])
    for name, extra in (("one", {}), ("many", options)):
        (tmp_path / name).mkdir()
        assert main(words(raw, tokenizer, tmp_path / name / "out_0", **extra)) == 0
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert not [path for path in (tmp_path / "many").iterdir() if path.name.startswith(".")]


# Bad input


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, {}, "there is no file or folder"),
        ("", {}, "raw.jsonl is empty"),
        ('{"instruction": "Q", "chosen": "a", "rejected": "b"}\n{"inst', {}, "raw.jsonl, line 2"),
        ('{"question": "Q", "chosen": "a", "rejected": "b"}', {}, "Columns in the data: chosen, question, rejected"),
        ('{"instruction": "Q", "chosen": "a", "rejected": "a"}', {}, "none of 1 rows can be used"),
        ('{"instruction": "Q", "chosen": "", "rejected": "a"}', {}, "1 empty_response: a response has no text"),
        ('{"instruction": 1, "chosen": "b", "rejected": "a"}', {}, "1 of 1 rows are malformed"),
        ('{"instruction": "Q", "chosen": "b", "rejected": "a"}', {"seq_length": 3}, "none of 1 rows can be used"),
        ('{"instruction": "Q", "chosen": "b", "rejected": "a"}', {"prompt_type": "lama3"}, "did you mean llama3"),
        ('{"instruction": "Q", "chosen": "b", "rejected": "a"}', {"prompt_type": "qwen"}, "ends turns with <|im_end|>"),
        (
            '{"instruction": "Q", "chosen": "b", "rejected": "a"}',
            {"prompt_type_path": "x.json", "prompt_type": "a"},
            "x.json",
        ),
        ('{"instruction": "Q", "chosen": "b", "rejected": "a"}', {"tokenizer_name_or_path": "no"}, "no directory no"),
        (
            '{"instruction": "Q", "chosen": "b", "rejected": "a"}',
            {"hf_datasets_params": 1, "input": "a/b"},
            "no file 1",
        ),
        (
            '{"instruction": "Q", "chosen": "b", "rejected": "a"}',
            {"handler_name": "Alpaca"},
            "handler_name 'Alpaca' is",
        ),
    ],
)
def test_bad_input_gets_a_sentence_and_leaves_the_old_set(
    tmp_path: Path,
    tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    options: dict[str, Any],
    sentence: str,
) -> None:
    (tmp_path / "sets").mkdir()
    assert main(words(save(tmp_path / "good.jsonl", rows(3)), tokenizer, tmp_path / "sets" / "out")) == 0
    before = files(tmp_path / "sets")
    raw = tmp_path / "raw.jsonl"
    if content is not None:
        raw.write_text(content)
    capsys.readouterr()
    assert main(words(raw, tokenizer, tmp_path / "sets" / "out", **options)) in (1, 2)
    printed = capsys.readouterr()
    assert sentence in printed.err and "Traceback" not in printed.err
    assert printed.out == ""
    assert files(tmp_path / "sets") == before
    assert len(list((tmp_path / "sets").iterdir())) == len(before)


def test_the_share_of_malformed_rows_can_be_set(tmp_path: Path, tokenizer: Path) -> None:
    content = rows(10)
    for row in content[:4]:
        row["instruction"] = None
        row["chosen"] = 5
    raw = save(tmp_path / "raw.jsonl", [{**row, "instruction": 5} if n < 4 else row for n, row in enumerate(content)])
    assert main(words(raw, tokenizer, tmp_path / "out")) == 1
    assert main(words(raw, tokenizer, tmp_path / "out", max_invalid_share=0.4)) == 0
    assert len(PreferenceDataset.open(str(tmp_path / "out"))) == 6


def test_a_killed_run_leaves_the_old_set_as_it_was(tmp_path: Path, tokenizer: Path) -> None:
    sets = tmp_path / "sets"
    assert main(words(save(tmp_path / "good.jsonl", rows(3)), tokenizer, sets / "out")) == 0
    before = files(sets)
    raw = save(tmp_path / "long.jsonl", rows(20000))
    command = [sys.executable, str(ROOT / "preprocess_data.py"), *words(raw, tokenizer, sets / "out", log_interval=64)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if " written, " in line)
        process.send_signal(signal.SIGKILL)
    assert line.startswith("64 rows read, 64 written") and process.returncode == -signal.SIGKILL
    assert files(sets) == before
    assert main(words(tmp_path / "good.jsonl", tokenizer, sets / "out")) == 0
    assert files(sets) == before


def test_help_names_what_can_be_requested(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main([]) == 2
    out = capsys.readouterr().out
    assert all(word in out for word in ("orca_rlhf", "DialoguePairwiseHandler", "chat_template", "qwen3", "seq_length"))


def test_the_shell_script_finds_its_way_from_anywhere(tmp_path: Path, tokenizer: Path) -> None:
    raw = save(tmp_path / "raw.jsonl", [READY["orca_rlhf"]])
    script = ROOT / "examples" / "data" / "preprocess_data.sh"
    options = [f"input={raw.name}", "output_prefix=out", f"tokenizer_name_or_path={tokenizer}"]
    options += ["prompt_type=chat_template", "workers=1"]
    done = subprocess.run(
        ["bash", str(script), "orca_rlhf", *options],
        cwd=tmp_path,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(PreferenceDataset.open(str(tmp_path / "out"))) == 1


@pytest.mark.parametrize("name", ["descriptiveness", "deepscaler"])
def test_ready_prompt_sets_run_by_name_with_a_file_of_their_form(tmp_path: Path, name: str) -> None:
    special = ["<|im_start|>", "<|im_end|>", *CHAT_TOKENS]
    own = save_tokenizer(tmp_path / "tokenizer", special=special, chat_template=CHAT_TEMPLATE)
    if name == "descriptiveness":
        raw = tmp_path / "descriptiveness-00000-of-00001.parquet"
        # As on the hub: descriptive responses and the like beside the prompt.
        rows = {"prompt": ["Q0", "", "Q2"], "chosen": ["a"] * 3, "rejected": ["b"] * 3}
        pyarrow.parquet.write_table(pyarrow.table(rows), raw)
    else:
        raw = tmp_path / "deepscaler.json"
        rows = [
            {"problem": f"Q{n}" if n != 1 else "", "answer": f"\\frac{{{n}}}{{2}}", "solution": ""} for n in range(3)
        ]
        raw.write_text(json.dumps(rows))
    overrides = [f"input={raw}", f"output_prefix={tmp_path / 'out'}", f"tokenizer_name_or_path={own}", "workers=1"]
    done = subprocess.run(
        ["bash", str(ROOT / "examples" / "data" / "preprocess_data.sh"), name, *overrides],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"dropped: empty_prompt +1 .*first in row 2", done.stdout)
    dataset = PromptDataset.open(str(tmp_path / "out"))
    columns = dataset.columns(range(2))
    assert [messages[-1]["content"] for messages in columns["messages"]] == ["Q0", "Q2"]
    assert columns.get("labels") == (None if name == "descriptiveness" else ["\\frac{0}{2}", "\\frac{2}{2}"])
    header = "<|im_start|>assistant\n" if name == "deepscaler" else "<|assistant|>"
    assert text_of(load_tokenizer(own), dataset.prompts([1])[0].tolist()).endswith(header)
