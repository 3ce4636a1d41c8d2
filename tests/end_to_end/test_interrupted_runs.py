"""A run that is interrupted and resumed must give the numbers of an uninterrupted one, bit by bit.

A run over two replicas with the distributed optimizer and shuffled pairs is interrupted nine times in a row: eight
kills of its parts, at moments that a seed chooses, and a stop by a signal. Other layouts and dtypes resume bit by bit
in the engine's own tests.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mindspeed_dpo.engine.checkpoint_retention import saved_iterations
from tests.end_to_end.conftest import OwnRun
from tests.support.closeness import SHIPPED, assert_same_run
from tests.support.commands import Running, succeed, training
from tests.support.metrics import num_steps
from tests.support.resuming import (
    Interrupted,
    different_tensors,
    interrupt_run,
    numbers,
    resume,
    saved_iteration,
)
from tests.support.runs import ACTOR, Layout
from tests.support.victims import (
    DRIVER,
    EVERYTHING,
    STOP,
    SUPERVISOR,
    SUPERVISOR_AND_DRIVER,
    Interrupt,
    Victim,
    process_of_ray,
    worker,
)

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS, SAVE_INTERVAL, SEED = 48, 4, 1
WORKER_START, RAY_START, STEP, SAVE = "the start of a worker", "the start of Ray", "a step", "a save"


@dataclass(frozen=True)
class Case:
    """An interruption at a moment, of a run that starts a Ray of its own, or of one that need not."""

    victim: Victim
    moment: str
    own_ray: bool = False


CASES = {
    "worker at its start": Case(worker("actor_rollout_0.log"), WORKER_START),
    "worker": Case(worker("actor_rollout_1.log"), STEP),
    "supervisor and driver": Case(SUPERVISOR_AND_DRIVER, RAY_START, own_ray=True),
    "everything": Case(EVERYTHING, SAVE, own_ray=True),
    "gcs_server": Case(process_of_ray("gcs_server"), STEP, own_ray=True),
    "driver": Case(DRIVER, STEP),
    "raylet": Case(process_of_ray("raylet"), STEP, own_ray=True),
    "supervisor": Case(SUPERVISOR, STEP),
    "stop": Case(STOP, STEP),
}
"""By name, in the order in which they happen to one run."""


@dataclass(frozen=True)
class Scenario:
    """Two runs of the same settings: one uninterrupted, one interrupted and resumed until it was done."""

    alone: Path
    interrupted: Path
    interruptions: dict[str, Interrupted]
    listening: set[str]


def keys_of(own_run: OwnRun, folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of a run in its own folder."""
    return {
        **own_run.keys,
        "output_dir": folder,
        "reference_cache_dir": folder / "cache",
        "train_iters": STEPS,
        "lr_decay_iters": STEPS,
        "eval_interval": 12,
        "save_interval": SAVE_INTERVAL,
        **more,
    }


@pytest.fixture(scope="module")
def scenario(own_run: OwnRun, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A run that is interrupted in every way, and one that is not."""
    folder, layout, chance = tmp_path_factory.mktemp("scenario"), (1, 1, 2), random.Random(SEED)
    more: dict[str, Any] = {"use_distributed_optimizer": True, "overlap_grad_reduce": True}
    more.update(best_metric="eval/rewards/margins", keep_last_checkpoints=2, eval_at_start=True)
    joined = f"training.ray_address={ray_address}"
    succeed(*training(layout, **keys_of(own_run, folder / "alone", **more)), joined)
    interrupted = folder / "interrupted"
    first = training(layout, **keys_of(own_run, interrupted, **more))
    interruptions: dict[str, Interrupted] = {}
    listening: set[str] = set()
    for name, case in CASES.items():
        command = resume(first, interrupted) if saved_iteration(interrupted) else first
        arguments = command if case.own_ray else [*command, joined]
        interrupt = case.victim.interrupt
        if name == "gcs_server":
            interrupt = _look_first(interrupt, listening)
        interruptions[name] = _interrupt_at(case.moment, interrupt, arguments, interrupted, chance)
        if case.moment == SAVE:
            leave_half_written(interrupted / "checkpoints", interruptions[name].saved)
    succeed(*resume(first, interrupted), joined)
    return Scenario(folder / "alone", interrupted, interruptions, listening)


def _look_first(interrupt: Interrupt, listening: set[str]) -> Interrupt:
    """Note the addresses at which the run listens before it is interrupted."""

    def look(run: Running, output_dir: Path) -> None:
        listening.update(run.listening())
        interrupt(run, output_dir)

    return look


def _interrupt_at(
    moment: str, interrupt: Interrupt, arguments: list[str], output_dir: Path, chance: random.Random
) -> Interrupted:
    """Steps and saves are those after a checkpoint that this command has written itself."""
    saved, checkpoints = saved_iteration(output_dir), output_dir / "checkpoints"
    num_more = SAVE_INTERVAL + chance.randrange(SAVE_INTERVAL)

    def has_progressed(run: Running) -> bool:
        return saved_iteration(output_dir) > saved and num_steps(output_dir) >= saved + num_more

    moments: dict[str, Callable[[Running], bool]] = {
        WORKER_START: lambda run: (output_dir / "logs" / "actor_rollout_0.log").is_file(),
        RAY_START: lambda run: run.has_started("raylet"),
        STEP: has_progressed,
        SAVE: lambda run: has_progressed(run) and any(checkpoints.glob("*.partial")),
    }
    return interrupt_run(arguments, output_dir, interrupt, moments[moment])


@pytest.mark.parametrize("name", CASES)
def test_an_interruption_is_reported_in_one_line_and_nothing_stays_running(scenario: Scenario, name: str) -> None:
    interrupted = scenario.interruptions[name]
    assert not CASES[name].victim.problem(interrupted.finished, interrupted.left_behind, interrupted.folders)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.moment in (STEP, SAVE)])
def test_an_interrupted_run_has_a_checkpoint_and_has_not_reached_its_end(scenario: Scenario, name: str) -> None:
    interrupted = scenario.interruptions[name]
    assert 0 < interrupted.saved <= interrupted.steps[-1] < STEPS, interrupted.finished.text


def test_a_run_with_its_own_ray_listens_at_the_loopback_address_only(scenario: Scenario) -> None:
    assert scenario.listening and scenario.listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_a_polite_stop_saves_the_step_it_ends_with(scenario: Scenario) -> None:
    assert scenario.interruptions["stop"].saved == scenario.interruptions["stop"].steps[-1]


def test_the_numbers_are_those_of_a_run_left_alone(scenario: Scenario) -> None:
    ours, alone = numbers(scenario.interrupted), numbers(scenario.alone)
    assert [step["step"] for step in ours] == list(range(STEPS + 1))
    assert ours == alone
    assert different_tensors(scenario.interrupted, scenario.alone) == []


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
