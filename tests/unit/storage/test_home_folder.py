"""`~` at the start of a path is a home folder, and a path without one is refused in a sentence, whoever reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindspeed_dpo.commands import convert, migrate, preprocess
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.data.indexed.column_group import columns_present
from mindspeed_dpo.storage.home_folder import NoHomeFolderError, expanded_path
from tests.support.composing import load_quickly

SENTENCE = "begins with ~nosuchuser, and there is no user nosuchuser; write ./~nosuchuser for a folder of that name"


def test_the_home_folder_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded_path("~/a") == tmp_path / "a" and expanded_path("b/~") == Path("b/~")


def test_a_user_without_home_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(NoHomeFolderError, match=r"~/a begins with ~, and HOME is not set; write ./~"):
        expanded_path("~/a")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (convert.main, ["--load-dir=~nosuchuser/a", "--save-dir=b"]),
        (migrate.main, ["~nosuchuser/a.sh"]),
        (migrate.main, ["a.sh", "--output", "~nosuchuser/b.yaml"]),
        (preprocess.main, ["~nosuchuser/a.yaml"]),
    ],
)
def test_commands_say_so(command: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) in (1, 2)  # type: ignore[operator]
    assert SENTENCE in capsys.readouterr().err


@pytest.mark.parametrize("key", ["output_dir", "eval_data_path", "tokenizer_name_or_path"])
def test_so_does_a_configuration(key: str) -> None:
    with pytest.raises(ConfigError, match=SENTENCE):
        load_quickly("offline_dpo_trainer_tiny", [f"training.{key}='~nosuchuser/a'"], exists=lambda path: True)


def test_token_files_say_so() -> None:
    with pytest.raises(NoHomeFolderError, match=SENTENCE):
        columns_present("~nosuchuser/pairs")
