"""Online runs by the command on a simulated cluster of three nodes: a pool for every role, any process may die."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import Finished, command, simulated_cluster, succeed
from tests.support.killed_processes import worker
from tests.support.metrics import num_steps
from tests.support.online_inputs import RULE, OnlineInputs, online_inputs
from tests.support.resuming import (
    Interrupted,
    different_tensors,
    interrupt_run,
    numbers,
    resume,
    saved_iteration,
)
from tests.support.runs import online_overrides

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS, SAVE_INTERVAL, SEED = 14, 2, 1
POOLS = {"ref": "[1]", "reward": "[1]"}
INTERRUPTED = ("rollout", "reward")


@dataclass(frozen=True)
class Scenario:
    """Two runs of the same settings: one uninterrupted, one interrupted and resumed until it was done."""

    alone: Path
    interrupted: Path
    interruptions: dict[str, Interrupted]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> OnlineInputs:
    return online_inputs(tmp_path_factory.mktemp("online"))


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[str]:
    """Address of a cluster whose nodes declare 2, 1 and 1 NPUs: as many as the shipped file requires."""
    with simulated_cluster([2, 1, 1]) as address:
        yield address


def online(inputs: OnlineInputs, address: str, output_dir: Path, *more: str) -> list[str]:
    keys = {
        **inputs.keys, "output_dir": output_dir, "ray_address": address, "ray_resource": "NPU", "train_iters": STEPS,
        "global_batch_size": 4, "micro_batch_size": 2, "n_samples_per_prompt": 3, "num_gpus_for_infer": 1,
        "md5_validate": True, "reward_functions": [RULE], "save_interval": SAVE_INTERVAL, "rollout_staleness": 1,
        "async_save": True, "split": "90,10,0", "eval_interval": 3, "eval_iters": 2, "best_metric": "eval/win_rate",
        "sync_ref_model": True, "ref_model_sync_steps": 3,
    }  # fmt: skip
    name = ["ray_gpt.py", "--config-name", "online_dpo_trainer_tiny"]
    return [*name, *online_overrides((1, 1, 1), POOLS, **keys), *more]


@pytest.fixture(scope="module")
def scenario(inputs: OnlineInputs, three_nodes: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A process that generates is killed, then one that scores; that of an actor is among the offline runs."""
    folder = tmp_path_factory.mktemp("scenario")
    succeed(*online(inputs, three_nodes, folder / "alone"))
    first = online(inputs, three_nodes, folder / "interrupted")
    again = resume(first, folder / "interrupted")
    interruptions: dict[str, Interrupted] = {}
    chance = random.Random(SEED)
    for pool in INTERRUPTED:
        arguments = again if interruptions else first
        interruptions[pool] = _kill_later(arguments, folder / "interrupted", pool, chance.randrange(SAVE_INTERVAL))
    succeed(*again)
    return Scenario(folder / "alone", folder / "interrupted", interruptions)


def _kill_later(arguments: list[str], output_dir: Path, pool: str, num_more: int) -> Interrupted:
    """Kill the process of a pool so many steps after the first checkpoint of this command."""
    saved = saved_iteration(output_dir)
    return interrupt_run(
        arguments,
        output_dir,
        worker(f"{pool}_0.log").interrupt,
        lambda run: saved_iteration(output_dir) > saved and num_steps(output_dir) >= saved + SAVE_INTERVAL + num_more,
    )


@pytest.mark.parametrize("pool", INTERRUPTED)
def test_a_dead_process_ends_the_run_with_one_message_that_names_it(scenario: Scenario, pool: str) -> None:
    interrupted = scenario.interruptions[pool]
    assert 0 < interrupted.saved < STEPS, interrupted.finished.text
    problem = worker(f"{pool}_0.log").problem(interrupted.finished, interrupted.left_behind, interrupted.folders)
    assert not problem


def test_the_numbers_are_those_of_a_run_left_alone(scenario: Scenario) -> None:
    ours, alone = numbers(scenario.interrupted), numbers(scenario.alone)
    assert [step["step"] for step in ours] == list(range(1, STEPS + 1))
    assert ours == alone
    rates = [step["eval/win_rate"] for step in alone if "eval/win_rate" in step]
    assert len(rates) == STEPS // 3 + 1 and min(rates) > 0.5
    assert different_tensors(scenario.interrupted, scenario.alone) == []


def test_every_role_wrote_the_log_of_its_pool(scenario: Scenario) -> None:
    names = {path.name for path in (scenario.alone / "logs").glob("*.log")}
    assert names == {"driver_0.log", "actor_rollout_0.log", "rollout_0.log", "ref_0.log", "reward_0.log"}


def refused(inputs: OnlineInputs, address: str, output_dir: Path, *more: str) -> Finished:
    finished = command(*online(inputs, address, output_dir, *more))
    assert finished.code != 0 and "Traceback" not in finished.text, finished.text
    assert not list(output_dir.glob("logs/rollout_*")) and not (output_dir / "checkpoints").exists()
    return finished


def test_too_few_devices_are_refused_with_available_and_requested_numbers(
    inputs: OnlineInputs, three_nodes: str, tmp_path: Path
) -> None:
    text = refused(inputs, three_nodes, tmp_path / "few", "resource_pool.ref=[2]").text
    assert "too few devices" in text and "ref: [2]" in text and "has 2" in text and "has 1" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("actor_rollout_ref.actor_rollout.num_gpus_for_infer=2", ("num_gpus_for_infer",)),
        ("actor_rollout_ref.actor_rollout.inference_tensor_model_parallel_size=2", ("inference_tensor",)),
        ("resource_pool.reward=[0]", ("resource_pool.reward",)),
    ],
)
def test_a_layout_that_cannot_be_is_refused_before_anything_starts(
    inputs: OnlineInputs, three_nodes: str, change: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    finished = refused(inputs, three_nodes, tmp_path / "no", change)
    assert finished.code == 2 and all(word in finished.text for word in words), finished.text
    assert not (tmp_path / "no").exists()
