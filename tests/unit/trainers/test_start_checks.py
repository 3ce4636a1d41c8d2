"""`plan=true` tells whether a run would start: the sentences and checks of the run, no Ray, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.accelerators import get_accelerator_manager_for_resource

import ray_gpt
from mindspeed_dpo.controller import device_checks, local_raylets
from mindspeed_dpo.controller.cluster_capacity import Node
from mindspeed_dpo.controller.local_raylets import Raylet
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.storage.process_lock import ProcessLock
from mindspeed_dpo.trainers import output_checks
from tests.support.commands import Finished, call
from tests.support.runs import online_overrides, overrides
from tests.unit.workers.rollouts import write_inputs

PLAN_OF = {True: "online_dpo_trainer_tiny", False: "offline_dpo_trainer_tiny"}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny model, a tokenizer, pairs and prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine has no NPU, no cluster is found on it, and none may be started or joined."""
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))
    monkeypatch.setattr(device_checks, "raylet_started_here", lambda: None)
    monkeypatch.setattr(
        get_accelerator_manager_for_resource("NPU"), "get_current_node_num_accelerators", staticmethod(lambda: 0)
    )
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def plan(inputs: Path, folder: Path, capture: Capture, *more: str, online: bool = False, **settings: Any) -> Finished:
    """The plan of a run over the inputs whose outputs go below the folder; it must leave the folder as it is."""
    keys = {
        "tokenizer_name_or_path": inputs / "tokenizer", "load": inputs / "hf", "output_dir": folder / "out",
        "data_path": inputs / ("prompts" if online else "pairs"), "train_iters": 2, **settings,
    }  # fmt: skip
    if online:
        given = online_overrides((1, 1, 1), None, **keys)
    else:
        keys = {"reference_cache_dir": folder / "cache", "split": "100,0,0", "eval_interval": 0, **keys}
        given = overrides(keys)
    before = contents(folder)
    finished = call(ray_gpt.main, ["--config-name", PLAN_OF[online], *given, *more, "plan=true"], capture)
    assert contents(folder) == before
    return finished


def contents(folder: Path) -> list[tuple[Path, int]]:
    return [(path, path.stat().st_size) for path in sorted(folder.rglob("*"))]


def refused(finished: Finished, *words: str) -> None:
    """It is planned, and then refused with one sentence."""
    last = finished.text.splitlines()[-1]
    assert finished.code == 1 and last.startswith("error: "), finished.text
    assert [word for word in words if word not in last] == [] and "Traceback" not in finished.text, finished.text


@pytest.mark.parametrize("online", [False, True], ids=["offline", "online"])
def test_a_run_that_would_start(inputs: Path, tmp_path: Path, capfd: Capture, online: bool) -> None:
    settings = {"reward_functions": ["examples.tiny.rewards.vowels"]} if online else {}
    finished = plan(inputs, tmp_path, capfd, online=online, **settings)
    assert finished.code == 0, finished.text
    assert "all checks passed; the run would start in a Ray cluster of its own on this machine" in finished.text


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "weights of another shape": ({"hidden_size": 128}, ("embed_tokens.weight is [262, 64]",)),
    "no row is kept": ({"seq_length": 2, "truncation": "drop"}, ("no row is fit for training: 0 of 5 rows used",)),
    "no such device": ({"device": "npu"}, ("too few devices", "no node has 2 NPU left", "127.0.0.1 has 0")),
    "more processes than the machine carries": (
        {"micro_batch_size": 1, "global_batch_size": 800}, ("requests 800 processes", "which carry at most 8 each"),
    ),
    "a malformed address": ({"ray_address": "somewhere"}, ("ray_address=somewhere should be host:port",)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_could_not_start_is_refused(
    name: str, inputs: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    settings, words = REFUSED[name]
    pools = ["resource_pool.actor_rollout=[800]"] if "global_batch_size" in settings else []
    refused(plan(inputs, tmp_path, capfd, *pools, **settings), *words)


def test_data_of_another_tokenizer_is_refused(inputs: Path, tmp_path: Path, capfd: Capture) -> None:
    shutil.copytree(inputs, tmp_path / "in")
    for path in (tmp_path / "in").glob("pairs_packed_meta.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_fingerprint": "of another"}))
    refused(plan(tmp_path / "in", tmp_path, capfd), "tokenizer")


def test_a_reward_function_that_does_not_exist_is_refused(inputs: Path, tmp_path: Path, capfd: Capture) -> None:
    finished = plan(inputs, tmp_path, capfd, online=True, reward_functions=["examples.tiny.rewards.absent"])
    refused(finished, "reward_functions: ", "absent")


@pytest.mark.parametrize("key", ["output_dir", "save", "reference_cache_dir"])
def test_a_folder_that_cannot_be_written_is_refused(inputs: Path, tmp_path: Path, capfd: Capture, key: str) -> None:
    finished = plan(inputs, tmp_path, capfd, **{key: "/proc/none"})
    refused(finished, "/proc/none", "cannot be written: ", f"set {key} to")


def test_a_file_of_the_run_that_cannot_be_written_is_refused(inputs: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "out" / "config.yaml").mkdir(parents=True)
    refused(plan(inputs, tmp_path, capfd), "out/config.yaml cannot be written: Is a directory", "output_dir")


def test_a_disk_without_space_is_refused(
    inputs: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_checks, "free_bytes", lambda folder: 1000)
    refused(plan(inputs, tmp_path, capfd), "save=", "free, and a checkpoint of this run takes about")


@pytest.mark.parametrize("place", ["out", "out/checkpoints"])
def test_a_folder_in_use_is_refused_and_a_lock_left_by_a_killed_run_is_not(
    place: str, inputs: Path, tmp_path: Path, capfd: Capture
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    with ProcessLock(folder / ".run.lock"):
        refused(plan(inputs, tmp_path, capfd), f"={folder} is in use by another run, process {os.getpid()} on ")
    (folder / ".run.lock").write_text("{}")
    assert plan(inputs, tmp_path, capfd).code == 0


def test_checkpoints_of_another_run_are_refused(inputs: Path, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")
    refused(plan(inputs, tmp_path, capfd), "contains the checkpoints of another run")


def test_an_address_at_which_nothing_listens_is_refused(inputs: Path, tmp_path: Path, capfd: Capture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(plan(inputs, tmp_path, capfd, ray_address=address), f"no Ray cluster responds at {address}")


def test_a_folder_of_ray_that_cannot_be_written_is_refused(
    inputs: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    refused(plan(inputs, tmp_path, capfd), "Ray's folder /proc/none cannot be written", "set RAY_TMPDIR")


def in_cluster(monkeypatch: pytest.MonkeyPatch, nodes: Callable[[Raylet], list[Node]]) -> None:
    """A cluster that this user began on this machine, with nodes."""
    raylet = Raylet(os.getpid(), os.getuid(), "10.0.0.1:6344", 0.0)
    monkeypatch.setattr(device_checks, "raylet_started_here", lambda: raylet)
    monkeypatch.setattr(device_checks, "nodes_of", nodes)


def test_a_cluster_of_this_machine_is_used_if_it_has_the_devices(
    inputs: Path, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_cluster(monkeypatch, lambda raylet: [Node("a", "10.0.0.1", {"NPU": 1.0}), Node("b", "10.0.0.2", {"NPU": 2.0})])
    finished = plan(inputs, tmp_path, capfd, device="npu")
    assert finished.code == 0 and "would start in the Ray cluster at 10.0.0.1:6344, started with" in finished.text
    finished = plan(inputs, tmp_path, capfd, "resource_pool.actor_rollout=[4]", device="npu")
    refused(finished, "127.0.0.1 has 0")
    assert "the Ray cluster at 10.0.0.1:6344, started with `ray start`, is not used: too few devices" in finished.text


def test_units_are_those_that_ray_counts_and_the_user_leaves_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = get_accelerator_manager_for_resource("NPU")
    monkeypatch.setattr(manager, "get_current_node_num_accelerators", staticmethod(lambda: 8))
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    assert device_checks.this_machine("NPU", {}).resources == {"NPU": 8}
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "2,3")
    assert device_checks.this_machine("NPU", {}).resources == {"NPU": 2}
    assert device_checks.this_machine("CPU", {"a": [400], "b": [200]}).resources["CPU"] >= 600


def test_a_cluster_that_does_not_reply_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(address: str) -> None:
        raise ray.exceptions.RpcError("Unauthenticated")

    monkeypatch.setattr(device_checks, "GcsClient", client)
    raylet = local_raylets.Raylet(1, 0, "10.0.0.1:6344", 0.0)
    with pytest.raises(ClusterError, match=r"the Ray cluster at 10\.0\.0\.1:6344 refused this run \(Unauthenticated"):
        device_checks.nodes_of(raylet)
