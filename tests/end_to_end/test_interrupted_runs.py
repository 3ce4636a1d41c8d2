"""A run that is interrupted and resumed must give the numbers of an uninterrupted one, bit by bit.

A run over two replicas with the distributed optimizer and shuffled pairs is interrupted four times in a row, once while
it writes a checkpoint. Other layouts and dtypes resume bit by bit in the engine's own tests.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.engine.checkpoint_retention import saved_iterations
from tests.end_to_end.conftest import OwnRun
from tests.support.closeness import SHIPPED, assert_same_run
from tests.support.commands import Running, succeed, training
from tests.support.resuming import (
    Interrupt,
    Interrupted,
    different_weights,
    interrupt_run,
    kill_all,
    kill_gcs_server,
    kill_worker,
    num_steps,
    numbers,
    request_stop,
    resume,
    saved_iteration,
)
from tests.support.runs import ACTOR, Layout

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS, SAVE_INTERVAL = 60, 7


@dataclass(frozen=True)
class Scenario:
    """Two runs of the same settings: one uninterrupted, one interrupted and resumed until it was done."""

    alone: Path
    interrupted: Path
    interruptions: list[Interrupted]
    listening: set[str]


def keys_of(own_run: OwnRun, folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a run in its own folder."""
    return {
        **own_run.keys,
        "output_dir": folder,
        "reference_cache_dir": folder / "cache",
        "train_iters": STEPS,
        "lr_decay_iters": STEPS,
        "eval_interval": 10,
        "save_interval": SAVE_INTERVAL,
        **more,
    }


@pytest.fixture(scope="module")
def scenario(own_run: OwnRun, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A worker killed, everything killed during a save, Ray's server killed, then a polite stop."""
    folder, layout = tmp_path_factory.mktemp("scenario"), (1, 1, 2)
    more: dict[str, Any] = {"use_distributed_optimizer": True, "overlap_grad_reduce": True}
    more.update(best_metric="eval/rewards/margins", keep_last_checkpoints=2, eval_at_start=True)
    succeed(*training(layout, **keys_of(own_run, folder / "alone", **more)), f"training.ray_address={ray_address}")
    first, interrupted = training(layout, **keys_of(own_run, folder / "interrupted", **more)), folder / "interrupted"
    again = resume(first, interrupted)
    listening: set[str] = set()

    def look_and_kill(run: Running) -> None:
        listening.update(run.listening())
        kill_worker(1)(run)

    interruptions = [_interrupt_later(first, interrupted, look_and_kill)]
    interruptions.append(_interrupt_later(again, interrupted, kill_all, while_saving=True))
    leave_half_written(interrupted / "checkpoints", interruptions[-1].saved)
    interruptions += [_interrupt_later(again, interrupted, interrupt) for interrupt in (kill_gcs_server, request_stop)]
    succeed(*again)
    return Scenario(folder / "alone", interrupted, interruptions, listening)


def _interrupt_later(
    arguments: list[str], output_dir: Path, interrupt: Interrupt, while_saving: bool = False
) -> Interrupted:
    """Strike once a checkpoint was written and a few steps more were done than ever before, maybe at the next save."""
    before, saved, checkpoints = num_steps(output_dir), saved_iteration(output_dir), output_dir / "checkpoints"
    return interrupt_run(
        arguments,
        output_dir,
        interrupt,
        lambda: (
            num_steps(output_dir) >= before + 2
            and saved_iteration(output_dir) > saved
            and (not while_saving or any(checkpoints.glob("*.partial")))
        ),
    )


@pytest.mark.parametrize(
    "number", range(4), ids=["worker killed", "all killed in a save", "gcs_server killed", "stopped by a signal"]
)
def test_a_run_is_interrupted_before_its_end_and_nothing_stays_running(scenario: Scenario, number: int) -> None:
    interrupted = scenario.interruptions[number]
    assert 0 < interrupted.saved <= interrupted.steps[-1] < STEPS
    assert interrupted.finished.code == [1, -9, 1, 130][number], interrupted.finished.text
    assert interrupted.left_behind == []
    assert "Traceback" not in interrupted.finished.text


def test_a_dead_worker_is_named_once_with_pool_rank_and_cause(scenario: Scenario) -> None:
    text = [line for line in scenario.interruptions[0].finished.text.splitlines() if "actor_rollout rank" in line]
    assert len(text) == 1, scenario.interruptions[0].finished.text
    assert "actor_rollout rank 1" in text[0] and "the process died" in text[0] and "actor_rollout_1.log" in text[0]


def test_the_end_of_ray_s_server_is_reported_in_one_sentence(scenario: Scenario) -> None:
    lines = [line for line in scenario.interruptions[2].finished.text.splitlines() if " died" in line]
    assert len(lines) == 1 and "gcs_server (process " in lines[0], scenario.interruptions[2].finished.text


def test_a_run_with_its_own_ray_listens_at_the_loopback_address_only(scenario: Scenario) -> None:
    assert scenario.listening and scenario.listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_a_polite_stop_saves_the_step_it_ends_with(scenario: Scenario) -> None:
    assert scenario.interruptions[3].saved == scenario.interruptions[3].steps[-1]


def test_the_numbers_are_those_of_a_run_left_alone(scenario: Scenario) -> None:
    ours, alone = numbers(scenario.interrupted), numbers(scenario.alone)
    assert [step["step"] for step in ours] == list(range(STEPS + 1))
    assert ours == alone
    assert different_weights(scenario.interrupted, scenario.alone) == []


def test_nothing_half_written_is_left(scenario: Scenario) -> None:
    assert list((scenario.interrupted / "checkpoints").glob("*.partial")) == []


def test_the_best_checkpoint_is_that_of_a_run_left_alone_and_old_ones_are_gone(scenario: Scenario) -> None:
    best, alone = (
        json.loads((run / "checkpoints" / "best.json").read_text()) for run in (scenario.interrupted, scenario.alone)
    )
    assert best == alone
    values = {step["step"]: step["eval/rewards/margins"] for step in numbers(scenario.alone)[1:] if "eval/loss" in step}
    assert best["value"] == max(values.values()) == values[best["step"]]
    for run in (scenario.interrupted, scenario.alone):
        saved = saved_iterations(run / "checkpoints")
        assert {best["step"], STEPS} <= set(saved) and len(saved) <= 3


def leave_half_written(checkpoints: Path, saved: int) -> None:
    """Make sure of what a crash leaves: the next checkpoint without its end, the tracker's successor empty."""
    partial = checkpoints / f"iter_{saved + SAVE_INTERVAL:07d}.partial"
    if not partial.is_dir():  # The checkpoint was finished in the last moment.
        shutil.copytree(checkpoints / f"iter_{saved:07d}", partial)
    for path in sorted(partial.glob("*.distcp"))[:1]:
        path.write_bytes(path.read_bytes()[:100])
    for name in (".metadata", "mindspeed_dpo.json"):
        (partial / name).unlink(missing_ok=True)
    (checkpoints / "latest_checkpointed_iteration.txt.partial").write_text("")


@pytest.mark.parametrize("layout", [(1, 1, 2), (1, 2, 1)], ids=["dp2", "pp2"])
def test_a_run_goes_on_under_another_layout(own_run: OwnRun, layout: Layout, ray_address: str, tmp_path: Path) -> None:
    keys = {**own_run.keys, "output_dir": tmp_path}
    middle = own_run.output_dir / "checkpoints" / "iter_0000012"
    succeed(*training(layout, **keys), f"training.ray_address={ray_address}", f"{ACTOR}.resume_from={middle}")
    ours, before = numbers(tmp_path), numbers(own_run.output_dir)[12:]
    assert [step["step"] for step in ours] == list(range(13, 25))
    names = ("loss", "rewards/margins", "logps/chosen", "learning_rate", "consumed_samples", "num_tokens")
    assert_same_run(ours, before, SHIPPED, names)
    at_the_end = replace(SHIPPED, first=SHIPPED.later)
    assert_same_run(ours[-1:], before[-1:], at_the_end, ["eval/loss"])
