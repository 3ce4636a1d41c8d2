"""`preprocess_data.py` and input it cannot use: a sentence, an exit code, no file; rows it leaves out are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import preprocess_data
from tests.support.commands import Finished, call, command
from tests.support.conversions import preprocessing
from tests.support.tokenizers import save_chat_tokenizer

GOOD = [{"prompt": f"What is {i} + 1?", "chosen": f"It is {i + 1}.", "rejected": "No."} for i in range(10)]
EMPTY = {"prompt": "a", "chosen": "", "rejected": "c"}
EQUAL = {"prompt": "a", "chosen": "c", "rejected": "c"}
LONG = {"prompt": "a" * 300, "chosen": "c", "rejected": "d"}


def lines(rows: list[dict[str, str]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


class Bad(NamedTuple):
    """An input file's text (None: no file), flags that differ, and words of the error message."""

    text: str | None
    flags: dict[str, str]
    words: tuple[str, ...]


BAD = {
    "missing file": Bad(None, {}, ("there is no file or folder", "rows.jsonl")),
    "empty file": Bad("", {}, ("rows.jsonl", "is empty")),
    "file without rows": Bad("[]", {}, ("rows.jsonl", "has no rows")),
    "broken JSON": Bad(
        json.dumps(GOOD[:2])[:-1] + ', {"prompt": \n' + json.dumps(GOOD[3:])[1:],
        {},
        ("rows.jsonl", "row 3", "invalid JSON"),
    ),
    "broken lines only": Bad('{"prompt": \n{"prompt": \n', {}, ("rows.jsonl, row 1: ", "invalid JSON")),
    "missing column": Bad(
        lines([{"prompt": "a", "chosen": "b"}] * 3), {}, ("rejected", "Columns in the data: chosen, prompt", "map_keys")
    ),
    "empty responses only": Bad(lines([EMPTY]), {}, ("none of 1 rows can be used", "row 1: chosen is empty")),
    "identical responses only": Bad(lines([EQUAL] * 2), {}, ("none of 2 rows", "chosen and rejected are the same")),
    "long prompts only": Bad(lines([LONG]), {}, ("none of 1 rows", "too_long", "seq_length is 256")),
    "unknown handler": Bad(
        lines(GOOD),
        {"handler-name": "AlpacaStylePairwiseHandlr"},
        ("'AlpacaStylePairwiseHandlr' is unknown", "did you mean AlpacaStylePairwiseHandler"),
    ),
    "unknown template": Bad(lines(GOOD), {"prompt-type": "qwenn"}, ("prompt_type 'qwenn'", "did you mean qwen")),
    "missing tokenizer": Bad(
        lines(GOOD), {"tokenizer-name-or-path": "nowhere"}, ("tokenizer_name_or_path", "there is no directory nowhere")
    ),
    "unknown flag": Bad(lines(GOOD), {"seq-lenght": "9"}, ("seq_lenght is not a setting", "did you mean seq_length")),
}

Preprocess = Callable[[str | None, dict[str, str]], Finished]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer with a chat template."""
    return save_chat_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def arguments(tokenizer: Path, tmp_path: Path) -> Callable[[str | None, dict[str, str]], list[str]]:
    """Writes the input where there is one, and gives the flags."""

    def prepare(text: str | None, flags: dict[str, str]) -> list[str]:
        raw = tmp_path / "rows.jsonl"
        if text is not None:
            raw.write_text(text)
        return [*preprocessing(raw, tokenizer, tmp_path / "out" / "pairs"), *(f"--{k}={v}" for k, v in flags.items())]

    return prepare


@pytest.mark.parametrize("name", BAD)
def test_input_that_cannot_be_used_is_refused(
    name: str, arguments: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = BAD[name]
    finished = call(preprocess_data.main, arguments(bad.text, bad.flags), capfd)
    assert finished.code in (1, 2), finished
    assert [word for word in bad.words if word not in finished.text] == [], finished.text
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("row", "reason"), [(EMPTY, "empty_response"), (EQUAL, "identical_responses"), (LONG, "too_long")]
)
def test_rows_that_cannot_be_used_are_left_out_and_counted(
    row: dict[str, str], reason: str, arguments: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    finished = call(preprocess_data.main, arguments(lines([*GOOD, row]), {}), capfd)
    assert finished.code == 0, finished.text
    text = {" ".join(line.split()[:-1]): line.split()[-1] for line in finished.text.splitlines() if line.strip()}
    assert text["rows read"] == "11" and text["rows written"] == "10", finished.text
    (line,) = [line for line in finished.text.splitlines() if reason in line]
    assert line.split(reason)[1].split()[0] == "1" and "row 11" in line


@pytest.mark.slow
def test_the_shell_gets_the_sentence_and_the_exit_code(arguments: Any, tmp_path: Path) -> None:
    bad = BAD["broken JSON"]
    finished = command("preprocess_data.py", *arguments(bad.text, bad.flags))
    assert finished.code == 1
    assert finished.text.splitlines()[-1].startswith("preprocess_data.py: ") and "row 3" in finished.text
    assert "Traceback" not in finished.text
