"""`~` at the start of a path is a home folder, and a path without one is refused in a sentence by every command."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindspeed_dpo.commands import convert, migrate, preprocess, report, train
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.data.indexed.column_group import columns_present
from mindspeed_dpo.storage.user_paths import NoHomeFolderError, expanded_path, real_path
from mindspeed_dpo.vllm_engine.interpreter import InterpreterProblem, interpreter_of
from tests.fuzz.seeds import write_hf
from tests.support.composing import load_quickly

SENTENCE = "begins with ~nosuchuser, and there is no user nosuchuser; write ./~nosuchuser for a folder of that name"


def test_the_home_folder_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded_path("~/a") == tmp_path / "a" and expanded_path("b/~") == Path("b/~")


def test_a_user_without_home_folder_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
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
        (report.main, ["~nosuchuser/run"]),
        (report.main, [".", "--output", "~nosuchuser/page.html"]),
    ],
)
def test_commands_say_so(command: object, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(arguments) in (1, 2)  # type: ignore[operator]
    assert SENTENCE in capsys.readouterr().err


def test_a_foreign_file_may_name_such_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "trl.yaml"
    file.write_text("model_name_or_path: ~nosuchuser/model\nbeta: 0.1\n", encoding="utf-8")
    assert migrate.main([str(file)]) == 3
    assert "model_name_or_path" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["output_dir", "eval_data_path", "tokenizer_name_or_path"])
def test_so_does_a_configuration(key: str) -> None:
    with pytest.raises(ConfigError, match=SENTENCE):
        load_quickly("offline_dpo_trainer_tiny", [f"training.{key}='~nosuchuser/a'"], exists=lambda path: True)


def test_so_does_the_interpreter_of_an_engine() -> None:
    with pytest.raises(InterpreterProblem, match=f"^python=~nosuchuser/python {SENTENCE}"):
        interpreter_of("~nosuchuser/python")


def test_token_files_say_so() -> None:
    with pytest.raises(NoHomeFolderError, match=SENTENCE):
        columns_present("~nosuchuser/pairs")


def test_links_in_a_circle_lead_to_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("folder")
    assert real_path(tmp_path / "loop/a").name == "a" and real_path(tmp_path / "link/a") == tmp_path / "folder/a"
    weights = write_hf(tmp_path / "hf")
    for kind in ("mg", "hf"):
        arguments = ["--load-model-type", "hf", "--save-model-type", kind, "--load-dir", str(weights)]
        assert convert.main([*arguments, "--save-dir", str(tmp_path / "loop/a")]) == 1
        assert (
            "cannot be created: " in (said := capsys.readouterr().err) and "/loop is a link that leads nowhere" in said
        )


@pytest.mark.parametrize("parent", ["file", "/dev/null"])
def test_a_file_in_place_of_a_folder_is_named(parent: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    weights, file = write_hf(tmp_path / "hf"), tmp_path / parent
    for kind in ("mg", "hf"):
        arguments = ["--load-model-type", "hf", "--save-model-type", kind, "--load-dir", str(weights)]
        assert convert.main([*arguments, "--save-dir", str(file / "a/b")]) == 1
        assert f"{file}/a/b cannot be created: {file} is a file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a link that leads nowhere"])
def test_what_is_no_file_in_place_of_a_configuration_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    make = {"a folder": path.mkdir, "a pipe": lambda: os.mkfifo(path)}
    make.get(kind, lambda: path.symlink_to("mine.yaml"))()
    assert train.main(["--config-dir", str(tmp_path), "--config-name", "mine", "plan=true"]) == 2
    assert f"{path} is {kind}, where a file is expected" in capsys.readouterr().err
    assert preprocess.main([str(path)]) == 1
    assert f"{path} is {kind}, where a file is expected" in capsys.readouterr().err
