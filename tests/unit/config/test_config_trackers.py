"""Settings of trackers: in either section, filled in if enabled, reported if not."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from mindspeed_dpo.config.settings.trackers import TRACKER_PACKAGES, missing_libraries
from mindspeed_dpo.config.validation import paths_and_libraries
from tests.unit.config.small_config import NOON, problems, resolved, small_tree


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Libraries taken to be there, whatever this machine has."""
    there = set(TRACKER_PACKAGES)
    monkeypatch.setattr(
        paths_and_libraries, "missing_libraries", lambda given: missing_libraries(given, lambda name: name in there)
    )
    return there


def tree_with(section: str, **keys: Any) -> dict[str, Any]:
    tree = small_tree()
    tree.setdefault(section, {}).update(keys)
    return tree


@pytest.mark.parametrize("section", ["rl_config", "training"])
def test_a_tracker_is_used_from_either_section(section: str) -> None:
    run = resolved(tree_with(section, use_wandb=True, wandb_project="", wandb_exp_name="mine"))
    loop = run.loop
    assert (loop.wandb_project, loop.wandb_exp_name, loop.wandb_save_dir) == ("mindspeed_dpo", "mine", loop.output_dir)
    assert loop.external_trackers == ("wandb",) and loop.swanlab_project is loop.mlflow_experiment is None
    assert run.origins["loop.wandb_exp_name"].section == section
    assert resolved(yaml.safe_load(run.as_yaml())) == run and NOON.strftime("%Y-%m-%d") in loop.output_dir


def test_names_are_those_of_the_configuration() -> None:
    loop = resolved(tree_with("training", use_swanlab=True, use_mlflow="true")).loop
    assert (loop.swanlab_exp_name, loop.mlflow_run_name, loop.mlflow_experiment) == (
        "small_run", "small_run", "mindspeed_dpo"
    )  # fmt: skip
    assert loop.external_trackers == ("swanlab", "mlflow") and loop.mlflow_tracking_uri is None


def test_settings_of_a_disabled_tracker_are_reported() -> None:
    run = resolved(tree_with("rl_config", use_wandb=False, wandb_project="trial"))
    assert "rl_config.wandb_project=trial has no effect without use_wandb=true" in run.notes
    assert run.loop.wandb_project is None and "wandb_project" not in run.as_yaml()


def test_two_sections_must_agree() -> None:
    tree = tree_with("rl_config", use_wandb=True)
    tree["training"]["use_wandb"] = False
    assert problems(tree) == ["rl_config.use_wandb=true differs from training.use_wandb=false; keep one"]


def test_a_misspelt_key_is_a_problem() -> None:
    assert problems(tree_with("rl_config", use_wandv=True)) == [
        "rl_config.use_wandv is not a known key; did you mean use_wandb?"
    ]


@pytest.mark.parametrize("name", TRACKER_PACKAGES)
def test_a_missing_library_is_reported_with_what_to_install(name: str, installed: set[str]) -> None:
    tree = tree_with("training", **{f"use_{name}": True})
    assert problems(tree) == []
    installed.remove(name)
    (actual,) = problems(tree)
    assert actual.startswith(
        f"training.use_{name}=true needs a library that is not installed; pip install {TRACKER_PACKAGES[name]}"
    )
