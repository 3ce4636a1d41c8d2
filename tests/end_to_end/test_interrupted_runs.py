"""A run that is interrupted and resumed must give the numbers of an uninterrupted one, bit by bit.

A run over two replicas with the distributed optimizer and shuffled pairs is interrupted nine times in a row: eight
kills of its parts, then a stop by a signal. It has far more steps than it does, so it goes on until each kill arrives,
and the uninterrupted run gets as many steps as it had done when it was stopped. `test_online_runs.py` has two more
kills, and `make chaos` has as many as one likes. Other layouts and dtypes resume bit by bit in the engine's own tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mindspeed_dpo.engine.checkpoints.checkpoint_retention import saved_iterations
from tests.end_to_end.conftest import OwnInputs
from tests.support.commands import LOOK_S, SHORT_LOOK_S, Running, succeed, training
from tests.support.killed_processes import (
    DRIVER,
    EVERYTHING,
    STOP,
    SUPERVISOR,
    Interrupt,
    Victim,
    process_of_ray,
    worker,
    writers,
)
from tests.support.metrics import num_steps
from tests.support.resuming import (
    Interrupted,
    SaveMoment,
    different_tensors,
    interrupt_run,
    numbers,
    resume,
    saved_iteration,
)

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

ENDLESS, SAVE_INTERVAL, EVAL_INTERVAL = 100_000, 4, 6
EPOCH = 36
"""Steps in which the run reads every row, so that its reference is computed in the same chunks as in a longer run."""
WORKER_START, RAY_START, STEP, SAVE = "the start of a worker", "the start of Ray", "a step", "a save"


@dataclass(frozen=True)
class Case:
    """An interruption at a moment, of a run that starts a Ray of its own, or of one that need not."""

    victim: Victim
    moment: str
    own_ray: bool = False
    least_steps: int = 0


CASES = {
    "worker at its start": Case(worker("actor_rollout_0.log"), WORKER_START),
    "everything at its start": Case(EVERYTHING, RAY_START, own_ray=True),
    "worker": Case(worker("actor_rollout_1.log"), STEP),
    "gcs_server": Case(process_of_ray("gcs_server"), STEP, own_ray=True),
    "driver in a save": Case(DRIVER, SAVE),
    "raylet": Case(process_of_ray("raylet"), STEP, own_ray=True),
    "supervisor": Case(SUPERVISOR, STEP),
    "everything in a save": Case(EVERYTHING, SAVE, own_ray=True),
    "stop": Case(STOP, STEP, least_steps=EPOCH),
}
"""By name, in the order in which they happen to one run."""


@dataclass(frozen=True)
class Scenario:
    """Two runs of the same settings and length: one uninterrupted, one interrupted and resumed again and again."""

    alone: Path
    interrupted: Path
    interruptions: dict[str, Interrupted]
    listening: set[str]
    niceness: set[int]


def run_of(inputs: OwnInputs, folder: Path, num_steps: int) -> list[str]:
    """The command of a run in its own folder; nothing but its end depends on the number of steps."""
    keys = {
        **inputs.keys,
        "output_dir": folder,
        "reference_cache_dir": folder / "cache",
        "train_iters": num_steps,
        "lr_decay_iters": 400,
        "eval_interval": EVAL_INTERVAL,
        "eval_at_start": True,
        "save_interval": SAVE_INTERVAL,
        "best_metric": "eval/rewards/margins",
        "keep_last_checkpoints": 2,
        "use_distributed_optimizer": True,
        "overlap_grad_reduce": True,
        "tensorboard": False,
    }
    return training((1, 1, 2), **keys)


@pytest.fixture(scope="module")
def scenario(ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A run that is interrupted in every way, and one that is not."""
    inputs = OwnInputs.make(tmp_path_factory.mktemp("inputs"), (1, 1, 1))
    folder, joined = tmp_path_factory.mktemp("scenario"), f"training.ray_address={ray_address}"
    interrupted = folder / "interrupted"
    first = run_of(inputs, interrupted, ENDLESS)
    interruptions: dict[str, Interrupted] = {}
    listening: set[str] = set()
    niceness: set[int] = set()
    for name, case in CASES.items():
        command = resume(first, interrupted) if saved_iteration(interrupted) else first
        interrupt = case.victim.interrupt
        if name == "gcs_server":
            interrupt = _look_first(interrupt, listening, niceness)
        arguments = command if case.own_ray else [*command, joined]
        interruptions[name] = _interrupt_at(case, interrupt, arguments, interrupted)
        if name == "everything in a save":
            damage_half_written(interrupted / "checkpoints")
    succeed(*run_of(inputs, folder / "alone", interruptions["stop"].saved), joined)
    return Scenario(folder / "alone", interrupted, interruptions, listening, niceness)


def _look_first(interrupt: Interrupt, listening: set[str], niceness: set[int]) -> Interrupt:
    """Note the addresses at which the run listens, and its workers' niceness, before it is interrupted."""

    def look(run: Running, output_dir: Path) -> None:
        listening.update(run.listening())
        niceness.update(process.nice() for process in writers(output_dir))
        interrupt(run, output_dir)

    return look


def _interrupt_at(case: Case, interrupt: Interrupt, arguments: list[str], output_dir: Path) -> Interrupted:
    """Steps and saves are those after a checkpoint that this command has written itself."""
    saved, in_save = saved_iteration(output_dir), SaveMoment(output_dir)
    num_before = max(saved + SAVE_INTERVAL, case.least_steps)

    def has_progressed() -> bool:
        return saved_iteration(output_dir) > saved and num_steps(output_dir) > num_before

    moments: dict[str, Callable[[Running], bool]] = {
        WORKER_START: lambda run: (output_dir / "logs" / "actor_rollout_0.log").is_file(),
        RAY_START: lambda run: run.has_started("raylet"),
        STEP: lambda run: has_progressed(),
        SAVE: lambda run: has_progressed() and in_save.is_reached(),
    }
    look_s = SHORT_LOOK_S if case.moment == SAVE else LOOK_S
    return interrupt_run(arguments, output_dir, in_save.interrupted_by(interrupt), moments[case.moment], look_s)


@pytest.mark.parametrize("name", CASES)
def test_an_interruption_is_reported_in_one_line_and_nothing_stays_running(scenario: Scenario, name: str) -> None:
    interrupted = scenario.interruptions[name]
    assert not CASES[name].victim.problem(interrupted.finished, interrupted.left_behind, interrupted.folders)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.moment in (STEP, SAVE)])
def test_an_interrupted_run_has_progressed(scenario: Scenario, name: str) -> None:
    interrupted, names = scenario.interruptions[name], list(CASES)
    before = scenario.interruptions[names[names.index(name) - 1]]
    assert before.saved < interrupted.saved <= interrupted.steps[-1], interrupted.finished.text


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.moment == SAVE])
def test_a_kill_in_a_save_leaves_a_half_written_checkpoint(scenario: Scenario, name: str) -> None:
    assert scenario.interruptions[name].partial


def test_a_run_with_its_own_ray_listens_at_the_loopback_address_only(scenario: Scenario) -> None:
    assert scenario.listening and scenario.listening <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_workers_are_as_nice_as_their_command(scenario: Scenario) -> None:
    assert scenario.niceness == {os.nice(0)}


def test_a_polite_stop_saves_the_step_it_ends_with(scenario: Scenario) -> None:
    assert scenario.interruptions["stop"].saved == scenario.interruptions["stop"].steps[-1]


def test_the_numbers_are_those_of_a_run_left_alone(scenario: Scenario) -> None:
    ours, alone = numbers(scenario.interrupted), numbers(scenario.alone)
    assert [step["step"] for step in ours] == list(range(scenario.interruptions["stop"].saved + 1))
    # A run that reaches its end evaluates there; one that is stopped does not.
    last = {key: value for key, value in alone[-1].items() if key in ours[-1] or not key.startswith("eval/")}
    assert ours == [*alone[:-1], last]
    assert different_tensors(scenario.interrupted, scenario.alone) == []


def test_nothing_half_written_is_left(scenario: Scenario) -> None:
    checkpoints = scenario.interrupted / "checkpoints"
    assert [*checkpoints.glob("*.partial"), *checkpoints.glob(".*.part")] == []


@pytest.mark.parametrize("which", ["interrupted", "alone"])
def test_the_best_checkpoint_is_kept_and_old_ones_are_gone(scenario: Scenario, which: str) -> None:
    run: Path = getattr(scenario, which)
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    values = {step["step"]: step["eval/rewards/margins"] for step in numbers(run)[1:] if "eval/loss" in step}
    assert best["value"] == max(values.values()) == values[best["step"]]
    saved = saved_iterations(run / "checkpoints")
    assert {best["step"], scenario.interruptions["stop"].saved} <= set(saved) and len(saved) <= 3


def damage_half_written(checkpoints: Path) -> None:
    """Leave what a crash can leave: a checkpoint without its end, and an empty successor of the tracker."""
    for partial in checkpoints.glob("iter_*.partial"):
        for path in sorted(partial.glob("*.distcp"))[:1]:
            path.write_bytes(path.read_bytes()[:100])
        for name in (".metadata", "mindspeed_dpo.json"):
            (partial / name).unlink(missing_ok=True)
    (checkpoints / ".latest_checkpointed_iteration.txt.part").write_text("")
