"""Online runs by the command on a simulated cluster of three nodes: a pool for every role, any process may die."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.commands import Finished, Running, command, open_files, simulated_cluster, succeed, until
from tests.support.online import RULE, OnlineInputs, online_inputs
from tests.support.resuming import Interrupt, Interrupted, interrupt_run, num_steps, numbers, resume, saved_iteration
from tests.support.runs import online_overrides

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS, SAVE_INTERVAL = 24, 3
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
        "async_save": True,
    }  # fmt: skip
    name = ["ray_gpt.py", "--config-name", "online_dpo_trainer_tiny"]
    return [*name, *online_overrides((1, 1, 1), POOLS, **keys), *more]


def writers(output_dir: Path, pool: str = "") -> list[psutil.Process]:
    """Processes on this machine that write the logs of a pool, or of any: on a running cluster no child of the run."""
    logs = str(output_dir / "logs" / pool)
    return [process for process in psutil.process_iter() if any(path.startswith(logs) for path in open_files(process))]


def kill(output_dir: Path, pool: str) -> Interrupt:
    def interrupt(run: Running) -> None:
        (process,) = writers(output_dir, f"{pool}_0.log")
        process.kill()

    return interrupt


@pytest.fixture(scope="module")
def scenario(inputs: OnlineInputs, three_nodes: str, tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    """A process that generates is killed, then one that scores; that of an actor is among the offline runs."""
    folder = tmp_path_factory.mktemp("scenario")
    succeed(*online(inputs, three_nodes, folder / "alone"))
    first = online(inputs, three_nodes, folder / "interrupted")
    again = resume(first, folder / "interrupted")
    interruptions: dict[str, Interrupted] = {}
    for pool in INTERRUPTED:
        interruptions[pool] = _interrupt_later(again if interruptions else first, folder / "interrupted", pool)
        until(lambda: not writers(folder / "interrupted"), "the end of all processes of the run")
    succeed(*again)
    return Scenario(folder / "alone", folder / "interrupted", interruptions)


def _interrupt_later(arguments: list[str], output_dir: Path, pool: str) -> Interrupted:
    before, saved = num_steps(output_dir), saved_iteration(output_dir)
    return interrupt_run(
        arguments,
        output_dir,
        kill(output_dir, pool),
        lambda: num_steps(output_dir) > before and saved_iteration(output_dir) > saved,
    )


@pytest.mark.parametrize("pool", INTERRUPTED)
def test_a_dead_process_ends_the_run_with_one_message_that_names_it(scenario: Scenario, pool: str) -> None:
    interrupted = scenario.interruptions[pool]
    assert interrupted.finished.code == 1 and 0 < interrupted.saved < STEPS, interrupted.finished.text
    text = [line for line in interrupted.finished.text.splitlines() if "the process died" in line]
    assert len(text) == 1 and f"{pool} rank 0 on " in text[0] and f"{pool}_0.log" in text[0], interrupted.finished.text
    assert "Traceback" not in interrupted.finished.text


def test_the_numbers_are_those_of_a_run_left_alone(scenario: Scenario) -> None:
    ours, alone = numbers(scenario.interrupted), numbers(scenario.alone)
    assert [step["step"] for step in ours] == list(range(1, STEPS + 1))
    assert ours == alone


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
