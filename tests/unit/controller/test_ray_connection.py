"""The start of a cluster of a run's own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private.node import Node

from mindspeed_dpo.controller import ray_connection
from mindspeed_dpo.controller.ray_connection import SYSTEM_CONFIG, ClusterError, start_private_cluster
from mindspeed_dpo.controller.ray_servers import UNUSED_SERVERS


class Starts:
    """A stand-in for `ray.init` that adds to its settings, as Ray does, and fails with each message in turn."""

    def __init__(self, *messages: str) -> None:
        self.messages, self.settings = list(messages), list[dict[str, Any]]()

    def __call__(self, _system_config: dict[str, Any], **options: Any) -> None:
        self.settings.append(dict(_system_config))
        _system_config["object_spilling_config"] = "{}"
        if self.messages:
            raise Exception(self.messages.pop(0))


@pytest.fixture(autouse=True)
def _nothing_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "shutdown", lambda: None)


def test_a_start_that_timed_out_is_tried_once_more_with_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts("The current node timed out during startup")
    monkeypatch.setattr(ray, "init", starts)
    with start_private_cluster(2):
        assert starts.settings == [SYSTEM_CONFIG, SYSTEM_CONFIG]


@pytest.mark.parametrize(("messages", "attempts"), [(("timed out", "timed out"), 2), (("refused",), 1)])
def test_a_start_that_fails_is_reported(
    messages: tuple[str, ...], attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = Starts(*messages)
    monkeypatch.setattr(ray, "init", starts)
    expected = rf"Ray did not start on this machine \({messages[-1]}\)"
    with pytest.raises(ClusterError, match=expected), start_private_cluster(2):
        pytest.fail("it started")
    assert len(starts.settings) == attempts


def test_servers_of_an_own_cluster_are_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watched: list[tuple[str, int]] = []
    monkeypatch.setattr(ray_connection.driver_link, "watch_process", lambda name, pid: watched.append((name, pid)))
    names, programs = ("gcs_server", "raylet", "log_monitor"), list[subprocess.Popen[bytes]]()

    def init(**options: Any) -> None:
        programs.extend(subprocess.Popen([shutil.copy("/bin/sleep", tmp_path / name), "600"]) for name in names)

    monkeypatch.setattr(ray, "init", init)
    try:
        with start_private_cluster(2):
            pids = {name: program.pid for name, program in zip(names, programs, strict=True)}
    finally:
        for program in programs:
            program.kill()
            program.wait()
    # The end of the raylet takes gcs_server with it, and must be reported before it.
    ours = [one for one in watched if one[1] in pids.values()]  # a cluster of other tests may run beside it
    assert ours == [("raylet", pids["raylet"]), ("gcs_server", pids["gcs_server"])]


def test_a_cluster_of_its_own_has_no_servers_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray renames one of these methods, its server would start again and cost every run half a second."""
    before = {name: getattr(Node, name) for name in UNUSED_SERVERS}
    during: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **options: during.update({name: getattr(Node, name) for name in before}))
    with start_private_cluster(2):
        assert {name: getattr(Node, name) for name in before} == before
    assert during.keys() == before.keys() and not set(during.values()) & set(before.values())
