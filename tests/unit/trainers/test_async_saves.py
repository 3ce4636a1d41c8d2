"""Saves in the background as the trainer sees them: who waits for them, and what follows their completion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.controller.failures import WorkerFailure
from mindspeed_dpo.engine.checkpoints.checkpoint_retention import BEST, saved_iterations
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, iteration_dir
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.early_stopping import BestMetricRule
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.nan_check import DivergenceError
from tests.unit.trainers.fakes import FakeRoles, trainer

LOSS = "eval/loss"


@dataclass
class Slow(FakeRoles):
    """Writes until it is waited for, or queried `looks` times; then the checkpoint is there."""

    root: Path = Path()
    looks: int = 99
    begun: int | None = None
    looked: int = 0

    def save(self, iteration: int, metadata: Mapping[str, Any], prefetched: None = None) -> str:
        assert self.begun is None, "another checkpoint is being written"
        self.begun, self.looked = iteration, 0
        return super().save(iteration, metadata)

    def finish_save(self, wait: bool) -> bool:
        assert self.begun is not None, "nothing is being written"
        self.looked += 1
        if not wait and self.looked < self.looks:
            return False
        folder = iteration_dir(self.root, self.begun)
        folder.mkdir(parents=True)
        (folder / METADATA).write_text("{}")
        self.calls.append(("complete", self.begun))
        self.begun = None
        return True


def kinds(roles: Slow) -> list[Any]:
    return [call for call in roles.calls if call[0] in ("log", "save", "complete")]


def test_training_goes_on_until_the_next_save_which_waits_as_the_end_does(tmp_path: Path) -> None:
    roles = Slow(root=tmp_path)
    assert trainer(roles, LoopSchedule(0, 5, save_interval=2, async_save=True)).fit() == 5
    assert kinds(roles) == [
        ("log", 1), ("log", 2), ("save", 2), ("log", 3), ("log", 4), ("complete", 2), ("save", 4), ("log", 5),
        ("complete", 4), ("save", 5), ("complete", 5),
    ]  # fmt: skip


def test_a_save_is_complete_at_the_end_of_the_step_in_which_it_is_written(tmp_path: Path) -> None:
    roles = Slow(root=tmp_path, looks=1)
    trainer(roles, LoopSchedule(0, 4, save_interval=2, async_save=True)).fit()
    assert kinds(roles)[:5] == [("log", 1), ("log", 2), ("save", 2), ("complete", 2), ("log", 3)]


def test_others_are_deleted_and_the_best_is_named_only_when_it_is_complete(tmp_path: Path) -> None:
    seen = []

    class Seen(Slow):
        def save(self, iteration: int, metadata: Mapping[str, Any], prefetched: None = None) -> str:
            best = json.loads((tmp_path / BEST).read_text())["step"] if (tmp_path / BEST).exists() else None
            seen.append((iteration, best, saved_iterations(tmp_path)))
            return super().save(iteration, metadata)

    roles = Seen(root=tmp_path, eval_losses=[0.9, 0.5, 0.4, 0.6])
    loop_run = trainer(roles, LoopSchedule(0, 4, save_interval=1, eval_interval=1, async_save=True))
    loop_run.checkpoint_policy = CheckpointPolicy(BestMetricRule(LOSS, keep=1), tmp_path)
    loop_run.fit()
    # Step 2 is better than step 1, which stays nevertheless until step 2 is complete.
    assert seen == [(1, None, []), (2, 1, [1]), (3, 2, [2]), (4, 3, [3])]
    assert saved_iterations(tmp_path) == [3, 4] and json.loads((tmp_path / BEST).read_text())["step"] == 3


def failing(error: Exception) -> Any:
    def during_update(step: int) -> None:
        if step == 3:
            raise error

    return during_update


@pytest.mark.parametrize("error", [RuntimeError("no device"), ValueError("nothing to learn")], ids=str)
def test_an_error_waits_for_the_save_and_is_the_one_that_is_reported(error: Exception, tmp_path: Path) -> None:
    roles = Slow(root=tmp_path, during_update=failing(error))
    with pytest.raises(type(error), match=str(error)):
        trainer(roles, LoopSchedule(0, 5, save_interval=2, async_save=True)).fit()
    assert saved_iterations(tmp_path) == [2]


class Broken(Slow):
    """Writing fails."""

    error: Exception = RuntimeError("the disk is full")

    def finish_save(self, wait: bool) -> bool:
        raise self.error


def test_a_save_that_fails_ends_the_run(tmp_path: Path) -> None:
    roles = Broken(root=tmp_path)
    with pytest.raises(RuntimeError, match="the disk is full"):
        trainer(roles, LoopSchedule(0, 5, save_interval=2, async_save=True)).fit()
    assert roles.done("save") == [2]


def test_the_first_error_is_reported_before_that_of_the_save(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    roles = Broken(root=tmp_path, during_update=failing(ValueError("nothing to learn")))
    with pytest.raises(ValueError, match="nothing to learn"):
        trainer(roles, LoopSchedule(0, 5, save_interval=3, async_save=True)).fit()
    assert "the checkpoint in progress is incomplete: the disk is full" in caplog.text


def test_the_end_of_a_process_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    death = WorkerFailure("gcs_server (process 1) died")
    roles = Broken(root=tmp_path, during_update=failing(death))
    roles.error = death
    with pytest.raises(WorkerFailure):
        trainer(roles, LoopSchedule(0, 5, save_interval=3, async_save=True)).fit()
    assert "the checkpoint in progress is incomplete" in caplog.text and "died" not in caplog.text


def test_the_checkpoint_before_a_diverging_step_is_waited_for(tmp_path: Path) -> None:
    roles = Slow(root=tmp_path, metrics={"loss": float("nan"), "grad_norm": 1.0})
    usual = {"loss": 0.5, "grad_norm": 1.0}
    roles.during_update = lambda step: roles.metrics.update(usual if step < 2 else {"loss": float("nan")})
    with pytest.raises(DivergenceError):
        trainer(roles, LoopSchedule(0, 5, async_save=True)).fit()
    assert saved_iterations(tmp_path) == [2]
