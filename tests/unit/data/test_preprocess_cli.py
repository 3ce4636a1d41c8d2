"""Flags and YAML files: one table of keys, all problems at once."""

from __future__ import annotations

import importlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import preprocess_data
from mindspeed_dpo.data.preprocessing.cli import SettingsError, parse
from mindspeed_dpo.data.preprocessing.config_keys import KEYS
from mindspeed_dpo.data.preprocessing.handler_table import HANDLERS
from mindspeed_dpo.data.preprocessing.settings import PreprocessSettings

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted(path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml"))
LEAST = ["--input", "x.json", "--output-prefix", "out", "--handler-name", "AlpacaStylePairwiseHandler"]
LEAST += ["--tokenizer-name-or-path", "tok", "--prompt-type", "qwen"]


def problems(*words: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        parse(words, ROOT)
    return error.value.problems


def settings(*words: str) -> PreprocessSettings:
    return parse([*LEAST, *words], ROOT).settings


def test_flags_of_the_predecessor_are_understood() -> None:
    read = parse(
        [
            *("--input", "orca.jsonl", "--tokenizer-type", "PretrainedFromHF", "--tokenizer-name-or-path", "DIR"),
            *("--output-prefix", "pairwise/orca", "--workers", "4", "--log-interval", "1000"),
            *("--handler-name", "AlpacaStylePairwiseHandler", "--prompt-type", "llama3"),
            *("--map-keys", '{"prompt":"question","query":"","system":"system"}'),
        ],
        ROOT,
    )
    assert read.notices == ()
    assert read.settings == PreprocessSettings(
        input="orca.jsonl",
        tokenizer_name_or_path="DIR",
        output_prefix="pairwise/orca",
        workers=4,
        log_interval=1000,
        handler_name="AlpacaStylePairwiseHandler",
        prompt_type="llama3",
        map_keys={"prompt": "question", "query": "", "system": "system"},
    )


def test_dashes_and_underscores_equals_signs_and_spaces_mean_the_same() -> None:
    for words in (["--seq-length", "9"], ["--seq_length=9"], ["seq_length=9"], ["--seq-length=9"]):
        assert settings(*words).seq_length == 9


@pytest.mark.parametrize(("word", "expected"), [("true", True), ("False", False), ("none", None)])
def test_thinking_is_true_false_or_none(word: str, expected: bool | None) -> None:
    assert settings("--enable-thinking", word).enable_thinking is expected


def test_switches_stand_alone_and_lists_take_several_words() -> None:
    read = settings("--tokenizer-not-use-fast", "--trust-remote-code", "--merge-group-keys", "a", "b", "workers=3")
    assert read.tokenizer_not_use_fast and read.trust_remote_code
    assert read.merge_group_keys == ("a", "b") and read.workers == 3


def test_all_problems_are_listed_at_once() -> None:
    actual = problems("--inptu", "x", "--workers", "many", "--pack", "--seq-length", "1", "--handler-name", "nonsense")
    text = "\n".join(actual)
    assert "inptu is not a setting; did you mean input?" in text
    assert "workers should be an integer, got 'many'" in text
    assert "pack cannot be used here" in text
    assert "seq_length should be at least 2, got 1" in text
    assert "handler_name 'nonsense' is unknown" in text
    assert "output_prefix is missing" in text and "tokenizer_name_or_path is missing" in text
    assert "workers is missing" not in text


@pytest.mark.parametrize(
    "given", ['{"' + "x" * 90_000 + '": 1}', '{"prompt": [' + "1, " * 40_000 + "1]}", "x" * 90_000]
)
def test_a_problem_quotes_a_long_value_in_part(given: str) -> None:
    with pytest.raises(SettingsError, match="map_keys") as error:
        parse([*LEAST, "--map-keys", given], ROOT)
    assert len(str(error.value)) < 2000 and "characters omitted" in str(error.value)


@pytest.mark.parametrize("key", [key for key, spec in KEYS.items() if spec.reject])
def test_refused_keys_say_why_and_only_when_they_request_something(key: str) -> None:
    (problem,) = problems(*LEAST, f"--{key}=something")
    assert problem == f"{key} cannot be used here: {KEYS[key].reject}"
    assert parse([*LEAST, f"--{key}="], ROOT).settings == settings()


@pytest.mark.parametrize("off", ["FALSE", "Off", "no", "false"])
def test_a_refused_key_is_off_with_every_spelling_of_yaml(off: str) -> None:
    assert parse([*LEAST, f"--pack={off}"], ROOT).settings == settings()


@pytest.mark.parametrize("key", [key for key, spec in KEYS.items() if spec.no_effect])
def test_keys_without_effect_are_accepted_and_reported(key: str) -> None:
    read = parse([*LEAST, f"--{key}=something"], ROOT)
    assert read.notices == (f"{key} has no effect: {KEYS[key].no_effect}",)
    assert read.settings == settings()


def test_every_other_key_is_a_setting() -> None:
    used = {key for key, spec in KEYS.items() if not spec.reject and not spec.no_effect}
    assert used == {*(field.name for field in fields(PreprocessSettings)), "tokenizer_type"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--map-keys", "{oops"], "map_keys should be a JSON object, got '{oops'"),
        (["--map-keys", '{"promt": "x"}'], "did you mean prompt"),
        (["--tokenizer-type", "GPT2BPETokenizer"], "tokenizer_type GPT2BPETokenizer is not supported"),
        (["--max-invalid-share", "2"], "max_invalid_share should lie between 0 and 1"),
        (["--dataset-additional-keys", "labels"], "labels applies to prompts, not to pairs; remove it"),
        (
            ["--handler-name", "PPOAlpacaStyleInstructionHandler", "--dataset-additional-keys", "level"],
            "needs a pair handler, or R1AlpacaStyleInstructionHandler or R1Sharegpt",
        ),
        (["--workers"], "--workers needs a value"),
        (["--seq-length", "1", "2"], "--seq-length: expected one value, got 1 2"),
        (["--seq-length", "2.5"], "seq_length should be an integer, got '2.5'"),
    ],
)
def test_values_that_cannot_be_used_get_a_sentence(words: list[str], sentence: str) -> None:
    (problem,) = problems(*LEAST, *words)
    assert sentence in problem


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_good_settings(name: str) -> None:
    read = parse([name], ROOT)
    assert read.settings.handler_name in HANDLERS
    assert Path(read.settings.output_prefix).is_absolute() and Path(read.settings.input).is_absolute()


def test_the_ready_data_sets_are_there() -> None:
    assert {
        "orca_rlhf",
        "descriptiveness",
        "pku_saferlhf",
        "stack_exchange_paired",
        "ultrafeedback_binarized",
        "hh_rlhf",
    } <= set(SHIPPED)


def test_words_after_a_file_override_its_keys() -> None:
    read = parse(["orca_rlhf", "seq_length=99", "--enable_thinking", "false", "input=mine.jsonl"], ROOT).settings
    assert (read.seq_length, read.enable_thinking, read.input) == (99, False, "mine.jsonl")
    assert read.map_keys == {"prompt": "question", "query": "", "system": "system"}


def write_yaml(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def test_a_file_of_the_users_own_is_read_by_its_path(tmp_path: Path) -> None:
    content = {"input": "x", "output-prefix": "out", "handler-name": "DialoguePairwiseHandler", "prompt_type": "plain"}
    content |= {"tokenizer_name_or_path": "tok", "tokenizer_not_use_fast": True, "pack": False}
    read = parse([write_yaml(tmp_path / "mine.yaml", content)], ROOT)
    assert read.settings.input == "x" and not read.settings.tokenizer_not_use_fast
    assert "tokenizer_not_use_fast has no effect in a YAML file" in read.notices[0]


def test_broken_files_and_names_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="did you mean orca_rlhf"):
        parse(["orca_rlfh"], ROOT)
    assert "is not valid YAML" in problems(write_yaml(tmp_path / "a.yaml", "a: [1"))[0]
    assert "should contain `key: value` lines" in problems(write_yaml(tmp_path / "b.yaml", "just text"))[0]


def test_importing_the_command_line_reads_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "nonsense"])
    importlib.reload(preprocess_data)
    assert sys.argv == ["x", "nonsense"]


def test_settings_survive_the_way_to_another_process() -> None:
    before = settings("--dataset-additional-keys=", "--map-keys", '{"prompt": "q"}', "--merge-group-keys", "a", "b")
    assert PreprocessSettings.from_json(before.to_json()) == before


@pytest.mark.parametrize("value", ['"a\\0b"', '"\\ud800"'], ids=["null", "surrogate"])
@pytest.mark.parametrize("key", ["output_prefix", "prompt_type", "dataset_additional_keys"])
def test_texts_that_no_path_or_file_can_hold_are_refused(tmp_path: Path, key: str, value: str) -> None:
    file = write_yaml(tmp_path / "a.yaml", f"{key}: {value}")
    assert any(
        problem.startswith(f"{key} should be") for problem in problems(file, *LEAST[: LEAST.index("--output-prefix")])
    )
