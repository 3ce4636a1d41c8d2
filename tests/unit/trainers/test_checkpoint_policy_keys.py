"""Keys of trackers, best checkpoint and early stop reach what acts on them."""

from __future__ import annotations

from typing import Any

import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.validation import paths_and_libraries
from mindspeed_dpo.trainers.early_stopping import BestMetricRule
from mindspeed_dpo.trainers.trackers import tracked_by
from tests.unit.config.small_config import resolved, small_tree


def run_with(**training: Any) -> RunConfig:
    tree = small_tree()
    tree["training"].update(training)
    return resolved(tree)


@pytest.fixture(autouse=True)
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths_and_libraries, "missing_libraries", lambda run: [])


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_what_a_tracker_gets_comes_from_its_keys(name: str) -> None:
    # wandb_project, wandb_exp_name, wandb_save_dir; swanlab_project, swanlab_exp_name, swanlab_save_dir.
    keys = {f"{name}_project": "here", f"{name}_exp_name": "mine", f"{name}_save_dir": "there"}
    tracked = tracked_by(name, run_with(**{f"use_{name}": True}, **keys))
    assert (tracked.project, tracked.name, tracked.place) == ("here", "mine", "there")
    assert tracked.config["training"]["train_iters"] == 10


def test_what_mlflow_gets_comes_from_its_keys() -> None:
    keys = {"mlflow_tracking_uri": "file:///store", "mlflow_experiment": "here", "mlflow_run_name": "mine"}
    tracked = tracked_by("mlflow", run_with(use_mlflow=True, **keys))
    assert (tracked.project, tracked.name, tracked.place) == ("here", "mine", "file:///store")


def test_what_a_run_waits_for_comes_from_its_keys() -> None:
    keys = {
        "eval_interval": 2, "split": "90,10,0", "best_metric": "eval/rewards/accuracies", "early_stop_patience": 3,
        "early_stop_min_delta": 0.01, "keep_last_checkpoints": 2,
    }  # fmt: skip
    assert BestMetricRule.of(run_with(**keys)) == BestMetricRule("eval/rewards/accuracies", False, 3, 0.01, 2)
    assert BestMetricRule.of(run_with(**keys, best_metric_mode="min")).is_min
