"""Messages of errors quote what was read, and are bounded whatever that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.data.preprocessing.data_folder import select_files
from mindspeed_dpo.data.preprocessing.readers import InputError
from mindspeed_dpo.untrusted.errors import MAX_MESSAGE_CHARACTERS, MalformedDataError
from tests.support.composing import load_quickly


def test_both_ends_of_a_long_message_remain() -> None:
    text = str(MalformedDataError("the first words " + "x" * 10_000 + " the last words"))
    assert text.startswith("the first words x") and text.endswith("x the last words")
    assert len(text) < MAX_MESSAGE_CHARACTERS + 100 and " characters omitted " in text
    assert str(MalformedDataError("as it is")) == "as it is"


def test_a_terminal_obeys_nothing_that_is_quoted() -> None:
    text = str(MalformedDataError("a\x1b[2Jb\x00\r\x9b\x7f\tä\n中"))
    assert text == "a\\x1b[2Jb\\x00\\r\\x9b\\x7f\tä\n中"
    with pytest.raises(ConfigError) as error:
        load_quickly("offline_dpo_trainer_tiny", ["training.a\x1bb=1"], exists=lambda path: True)
    assert "\x1b" not in str(error.value)


def test_a_long_value_of_a_setting_is_quoted_in_part() -> None:
    with pytest.raises(ConfigError) as error:
        load_quickly("offline_dpo_trainer_tiny", [f"training.lr={'9' * 5000}"], exists=lambda path: True)
    (problem,) = error.value.problems
    assert problem.startswith("training.lr=999") and len(problem) < MAX_MESSAGE_CHARACTERS + 100


@pytest.mark.parametrize("splits", [["x" * 3000], ["x" * 3000, "test"], [f"split{number}" for number in range(2000)]])
def test_splits_with_long_names_are_refused_in_a_short_sentence(splits: list[str], tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(InputError, match=r"input: .*(lists|has the splits)") as error:
        select_files(tmp_path)
    assert len(str(error.value)) < MAX_MESSAGE_CHARACTERS + 100
