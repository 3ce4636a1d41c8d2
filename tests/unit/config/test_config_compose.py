"""Names, folders and overrides; and that composing leaves the process as it was."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.config.issues import ConfigError
from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.config.loading.compose import SHIPPED_CONFIGS, available_configs, compose

TINY = "offline_dpo_trainer_tiny"


def _anything(path: str) -> bool:
    return True


def _problems(name: str, *overrides: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_run(name, overrides, exists=_anything, **options)
    return caught.value.problems


@pytest.mark.parametrize("name", available_configs())
def test_every_shipped_configuration_has_no_problems(name: str) -> None:
    run = load_run(name, exists=_anything)
    assert run.name == name
    assert run.notes == ()


def test_the_promised_configurations_are_shipped() -> None:
    models = ("tiny", "llama32_1b", "llama3_8b", "qwen25_7b", "qwen3_8b")
    assert {f"offline_dpo_trainer_{model}" for model in models} <= set(available_configs())
    online = ("tiny", "llama32_1b", "llama3_8b", "qwen25_7b")
    assert {f"online_dpo_trainer_{model}" for model in online} <= set(available_configs())


@pytest.mark.parametrize("model", sorted(path.stem for path in (SHIPPED_CONFIGS.parent / "model").glob("*.yaml")))
def test_every_shipped_model_trains(model: str) -> None:
    run = load_run(TINY, [f"model=[{model}]", f"actor_rollout_ref.actor_rollout.model={model}"], exists=_anything)
    assert run.actor.model.as_dict() == run.actor.model.from_dict(run.actor.model.as_dict()).as_dict()
    assert run.actor.model.padded_vocab(2) % 2 == 0


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.split=98,1,1", "split", "98,1,1"),
        ("+training.split='98,1,1'", "split", "98,1,1"),
        ("++training.weight_decay=0.5", "weight_decay", 0.0),
        ("actor_rollout_ref.actor_rollout.weight-decay=0.5", "weight_decay", 0.5),
        ("actor_rollout_ref.actor_rollout.lr=1e-7", "lr", 1e-7),
        ("training.resume_from=outputs/a b", "resume_from", "outputs/a b"),
        ("training.bf16=True", "bf16", True),
        ("model.tiny.init_method_std=0.5", "init_method_std", 0.5),
        ("~training.eval_interval", "seed", 42),
    ],
)
def test_an_override_sets_any_key(override: str, key: str, value: Any) -> None:
    run = load_run(TINY, [override], exists=_anything)
    assert {**vars(run.loop), **run.actor.settings()}[key] == value


@pytest.mark.parametrize(("written", "override"), [("min-lr", "min_lr"), ("min_lr", "min-lr")])
def test_an_override_replaces_what_the_file_spells_otherwise(tmp_path: Path, written: str, override: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"training:\n  {written}: 1e-5\n")
    tree = compose("mine", [f"training.{override}=1e-6"], tmp_path).tree
    assert tree["training"] == {override: 1e-6}


def test_an_unknown_override_is_a_problem_with_a_hint() -> None:
    assert _problems(TINY, "training.trian_iters=4") == (
        "training.trian_iters is not a known key; did you mean train_iters (section training)?",
    )
    assert _problems(TINY, "trainin.lr=4") == ("trainin is not a known section; did you mean training?",)


def test_overrides_that_cannot_be_read_come_in_one_list() -> None:
    found = _problems(TINY, "foo", "bar")
    assert [problem.split(" cannot be read")[0] for problem in found] == ["override foo", "override bar"]


def test_unknown_names_suggest_the_nearest() -> None:
    assert _problems("offline_dpo_trainer_tinny") == (
        f"--config-name offline_dpo_trainer_tinny: there is no such configuration; did you mean {TINY}?",
    )
    (found,) = _problems(TINY, "model=[tinny]")
    assert "there is no file model/tinny.yaml; choose llama2-7b, " in found
    (found,) = _problems(TINY, config_dir="no/such/folder")
    assert found == "--config-dir no/such/folder: there is no such folder"


def test_the_ending_may_be_written() -> None:
    assert compose(f"{TINY}.yaml").name == TINY


def test_a_folder_of_ones_own_comes_first_and_sees_the_shipped_models(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - model: [tiny]\ntraining: {lr: 1e-7}\n")
    tree = compose("mine", config_dir=tmp_path).tree
    assert tree["model"]["tiny"]["hidden_size"] == 64
    assert tree["training"]["lr"] == 1e-7
    assert compose(TINY, config_dir=tmp_path).tree == compose(TINY).tree


@pytest.mark.parametrize("where", ["rlxf/model", "model"])
def test_models_beside_or_above_the_configuration_are_found(tmp_path: Path, where: str) -> None:
    (tmp_path / where).mkdir(parents=True)
    (tmp_path / where / "odd.yaml").write_text("odd: {num_layers: 7}\n")
    (tmp_path / "rlxf").mkdir(exist_ok=True)
    (tmp_path / "rlxf" / "mine.yaml").write_text("defaults:\n  - model: [odd]\n")
    assert compose("mine", config_dir=tmp_path / "rlxf").tree["model"]["odd"]["num_layers"] == 7


def test_a_file_wins_over_the_model_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults:\n  - model: [tiny]\nmodel: {tiny: {num_layers: 8}}\n")
    model = compose("mine", config_dir=tmp_path).tree["model"]["tiny"]
    assert (model["num_layers"], model["hidden_size"]) == (8, 64)


@pytest.mark.parametrize("text", ["training: [", "training: ${nowhere}\n", "- a\n", "training: {lr: ???}\n"])
def test_a_file_that_cannot_be_read_is_one_problem_naming_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    (found,) = _problems("broken", config_dir=tmp_path)
    assert "broken.yaml" in found
    assert "\n" not in found


def test_composing_leaves_folder_loggers_and_disk_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    load_run(TINY, exists=_anything)
    assert (list(root.handlers), root.level) == before
    assert Path(os.getcwd()) == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_origin_of_a_value_is_the_override_as_typed() -> None:
    run = load_run(TINY, ["training.train_iters=5"], exists=_anything)
    assert run.origins["loop.train_iters"].source == "override training.train_iters=5"
    assert run.origins["actor.lr"].source == f"{TINY}.yaml"
    assert run.origins["actor.hidden_size"].source == "model/tiny.yaml"
