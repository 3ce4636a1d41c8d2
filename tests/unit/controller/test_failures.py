"""Which process is named when several are lost at once, with groups whose processes return what a test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from mindspeed_dpo.controller.failures import CAUSE_WAIT_S, DEATH_WAIT_S, WorkerFailure, listen_s
from mindspeed_dpo.controller.worker_group import PendingResults, WorkerGroup

DEATH = ray.exceptions.ActorDiedError()


def failed(cause: Exception) -> ray.exceptions.RayTaskError:
    return ray.exceptions.RayTaskError("publish", "", cause)


@dataclass(eq=False)
class Reply:
    """What a process will have said, by the time it is waited for if not at once."""

    error: Exception | None = None
    is_there: bool = True
    is_late: bool = False


class Process:
    """Return the node of a process, or raise the error of a dead one."""

    def __init__(self) -> None:
        self.reply: Callable[[], Reply] = Reply
        self.check_alive = SimpleNamespace(remote=lambda: self.reply())


def wait(replies: Sequence[Reply], num_returns: int, timeout: float) -> tuple[list[Reply], list[Reply]]:
    done = [reply for reply in replies if reply.is_there or (reply.is_late and timeout > CAUSE_WAIT_S)]
    return done[:num_returns], [reply for reply in replies if reply not in done[:num_returns]]


def get(replies: Any) -> Any:
    for reply in replies if isinstance(replies, list) else [replies]:
        if reply.error is not None:
            raise reply.error
    return replies


@pytest.fixture(autouse=True)
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "kill", lambda process: None)


def groups(logs: Path = Path("nowhere")) -> tuple[WorkerGroup, WorkerGroup]:
    """An actor and a rollout of two processes each."""
    both: list[WorkerGroup] = []
    for name in ("actor", "rollout"):
        group = WorkerGroup.__new__(WorkerGroup)
        group.name, group._pings, group._others = name, {}, both
        group._processes, group._nodes = [Process(), Process()], ["here", "there"]
        group._logs = logs
        both.append(group)
    return both[0], both[1]


def message(group: WorkerGroup, *replies: Reply) -> str:
    with pytest.raises(WorkerFailure) as failure:
        PendingResults(group, replies, "Actor.send_weights").result()
    return str(failure.value)


LOST = Reply(failed(RuntimeError("Connection closed by peer")))


def test_the_dead_process_of_another_group_is_named_though_it_lived_when_it_was_last_queried() -> None:
    actor, rollout = groups()
    actor.check_others()
    rollout._processes[1].reply = lambda: Reply(DEATH)
    assert message(actor, LOST, LOST).startswith("rollout rank 1 on there failed in the background: the process died")


def test_a_death_that_is_reported_late_is_waited_for() -> None:
    actor, rollout = groups()
    rollout._processes[0].reply = lambda: Reply(DEATH, is_there=False, is_late=True)
    assert message(actor, LOST, LOST).startswith("rollout rank 0 on here")
    actor, _ = groups()
    late = Reply(DEATH, is_there=False, is_late=True)
    assert message(actor, LOST, late).startswith("actor rank 1 on there failed in Actor.send_weights: the process died")


@pytest.mark.parametrize("error", [DEATH, ray.exceptions.OutOfMemoryError("short of memory")])
def test_a_process_that_ray_ended_is_a_dead_one(error: Exception) -> None:
    actor, _ = groups()
    faked = message(actor, LOST, Reply(error))
    assert faked.startswith("actor rank 1 on there failed in Actor.send_weights: the process died")


def test_the_log_of_a_dead_process_tells_its_signal(tmp_path: Path) -> None:
    (tmp_path / "actor_1.log").write_text("Fatal Python error: Bus error\n")
    assert message(groups(tmp_path)[0], LOST, Reply(DEATH)).startswith(
        "actor rank 1 on there failed in Actor.send_weights: the process died of SIGBUS: a file that it had mapped"
    )
    invalid = Reply(failed(ValueError("no such row")))
    assert "ValueError: no such row" in message(groups(tmp_path)[0], Reply(is_there=False), invalid)


def test_an_error_is_reported_as_such_where_every_process_lives_or_is_busy() -> None:
    actor, rollout = groups()
    rollout._processes[0].reply = lambda: Reply(is_there=False)
    invalid, hangs = Reply(failed(ValueError("no such row"))), Reply(is_there=False)
    assert "actor rank 1 on there failed in Actor.send_weights: ValueError: no such row" in message(
        actor, hangs, invalid
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (failed(RuntimeError("gloo")), DEATH_WAIT_S),
        (failed(ConnectionResetError("peer")), DEATH_WAIT_S),
        (failed(ValueError("row")), CAUSE_WAIT_S),
        (DEATH, 0.0),
    ],
)
def test_what_may_be_a_lost_connection_is_given_more_time(error: Exception, expected: float) -> None:
    assert listen_s({0: error}) == expected
