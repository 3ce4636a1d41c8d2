"""Keys without a section go where a configuration has them; settings written as flags are settings."""

from __future__ import annotations

from pathlib import Path

import pytest

import ray_gpt
from mindspeed_dpo.autoconfig.bare_keys import bare_key, compose_words
from mindspeed_dpo.commands.settings_as_flags import settings_as_words
from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import validate

TINY = "offline_dpo_trainer_tiny"
TWO_SIZES = """
training: {stage: dpo, train_iters: 1}
actor_rollout_ref:
  actor_rollout: {micro_batch_size: 1}
  ref: {micro_batch_size: 2}
"""


def test_a_key_is_set_where_the_file_sets_it_or_normally_belongs() -> None:
    tree = compose_words(TINY, ["lr=5e-6", "train_iters=7", "dpo-beta=0.3", "lora_r=4", "training.seed=3"]).tree
    actor, training = tree["actor_rollout_ref"]["actor_rollout"], tree["training"]
    assert (actor["lr"], actor["dpo-beta"], actor["lora_r"]) == ("5e-6", "0.3", "4")
    assert (training["train_iters"], training["seed"]) == ("7", "3")
    assert "lr" not in training


def test_an_ambiguous_key_names_the_sections(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TWO_SIZES)
    with pytest.raises(ConfigError, match=r"write actor_rollout_ref\.ref\.micro_batch_size=4"):
        compose_words("mine", ["micro_batch_size=4"], tmp_path)


@pytest.mark.parametrize("word", ["trainin.lr=4", "nothing=1", "model=tiny", "~training", "resource_pool=1", "lr"])
def test_other_words_are_left_as_they_are(word: str) -> None:
    assert bare_key(word) == ""


def test_an_unknown_bare_key_is_a_problem_with_the_nearest_key() -> None:
    report = validate(compose_words(TINY, ["learning_rate=1e-6"]), exists=lambda path: True)
    assert report.problems == (
        "learning_rate is not a known key; did you mean lr (section training or actor_rollout_ref.actor_rollout)?",
    )


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--training.train_iters=5"], ["training.train_iters=5"]),
        (["--train-iters", "5", "--plan"], ["train-iters=5", "--plan"]),
        (["--config-name", "x", "--lr=1e-6", "seed=2"], ["--config-name", "x", "lr=1e-6", "seed=2"]),
        (["--bf16"], ["bf16=true"]),
        (["-cn", "--plan"], ["-cn", "--plan"]),
        (["--config-name=x", "++training.lr=1"], ["--config-name=x", "++training.lr=1"]),
    ],
)
def test_settings_may_be_written_as_flags(typed: list[str], words: list[str]) -> None:
    assert settings_as_words(typed) == words


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config-nam", "--config-nam is no option; did you mean --config-name?"),
        ("--lr", "--lr is no option; settings are written lr=value"),
        ("--learning_rate", "did you mean lr?"),
    ],
)
def test_a_flag_that_is_none_gets_a_sentence(flag: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ray_gpt.main([flag]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_may_be_named_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("training: {stage: dp}\n")
    for name in (tmp_path / "mine.yaml", tmp_path / "mine"):
        assert ray_gpt.main(["--config-name", str(name)]) == 2
        assert "training.stage=dp" in capsys.readouterr().err
