"""Rollouts one step ahead: order of calls, overlap, contents of a checkpoint, and which error is reported."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.controller.role_groups import ActorGroup, RolloutGroup
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.nan_check import DivergenceError
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from tests.unit.trainers.test_online_dpo import BATCH, COUNT, FakeRoles, responses_to, rows_of_step, trainer

PATIENCE_S = 20.0
TOO_SHORT_S = 0.2


class Ahead(FakeRoles):
    """Rollouts are there once they are waited for, and the weights must not have changed by then."""

    def start_generate(self, rows: np.ndarray, first_sample: int) -> Callable[[], RolloutBatch]:
        generation, version = super().start_generate(rows, first_sample), self.version

        def wait() -> RolloutBatch:
            assert self.version == version, "the weights changed while the rollout sampled"
            self.calls.append(("generated", first_sample))
            return generation()

        return wait


def ahead(
    roles: FakeRoles, schedule: LoopSchedule, folder: Path, earlier: RolloutBatch | None = None
) -> OnlineDPOTrainer:
    loop_run = trainer(roles, schedule, folder)
    loop_run.staleness, loop_run.saved_rollouts = 1, earlier
    return loop_run


def test_the_next_responses_are_generated_while_the_actor_trains_and_weights_are_published_after_both(
    tmp_path: Path,
) -> None:
    roles = Ahead()
    assert ahead(roles, LoopSchedule(0, 3), tmp_path).fit() == 3
    kinds = [call if call[0] in ("generate", "generated", "publish") else call[0] for call in roles.calls]
    assert kinds == [
        ("generate", rows_of_step(0), 0, 0), ("generated", 0),
        "score", "ref", ("generate", rows_of_step(1), BATCH, 0), "scored", "update", ("generated", BATCH),
        ("publish", 1), "log",
        "score", "ref", ("generate", rows_of_step(2), 2 * BATCH, 1), "scored", "update", ("generated", 2 * BATCH),
        ("publish", 2), "log",
        "score", "ref", "scored", "update", ("publish", 3), "log", "save",
    ]  # fmt: skip
    assert [logged["pairs/staleness"] for logged in roles.logged.values()] == [0, 1, 1]
    assert [call[2] for call in roles.done("update")] == [[[row + 1, 50] for row in rows_of_step(s)] for s in range(3)]


def test_a_run_that_resumes_trains_on_the_rollouts_of_its_checkpoint(tmp_path: Path) -> None:
    alone = Ahead()
    ahead(alone, LoopSchedule(0, 5, save_interval=2), tmp_path).fit()
    assert {step: saved_ahead and saved_ahead.version for step, saved_ahead in alone.saved_ahead.items()} == {
        2: 1,
        4: 3,
        5: None,
    }
    second = Ahead(version=2)
    ahead(second, LoopSchedule(2, 5, save_interval=2), tmp_path, alone.saved_ahead[2]).fit()
    assert second.calls == alone.calls[alone.calls.index(("save", 2)) + 1 :]
    assert [logged["pairs/staleness"] for logged in second.logged.values()] == [1, 1, 1]
    assert "rollout_tokens_per_s" not in second.logged[3] and "rollout_tokens_per_s" in second.logged[4]


def test_without_staleness_a_checkpoint_has_no_rollouts(tmp_path: Path) -> None:
    roles = Ahead()
    trainer(roles, LoopSchedule(0, 3, save_interval=1), tmp_path).fit()
    assert roles.saved_ahead == {1: None, 2: None, 3: None}


class Diverging(Ahead):
    """Step 2 gives no number."""

    def update(self, step: int, pairs: PreferenceBatch, ref_logps: np.ndarray) -> dict[str, float]:
        return {**super().update(step, pairs, ref_logps), **({"loss": float("nan")} if step == 2 else {})}


def test_the_checkpoint_before_a_diverging_step_has_the_rollouts_of_that_step(tmp_path: Path) -> None:
    roles = Diverging()
    with pytest.raises(DivergenceError):
        ahead(roles, LoopSchedule(0, 5), tmp_path).fit()
    (saved_ahead,) = roles.saved_ahead.values()
    assert saved_ahead is not None and saved_ahead.rows.tolist() == rows_of_step(2) and saved_ahead.version == 1


@dataclass
class AtWork:
    """Rollout and actor on processes of their own; step 2's responses and step 1's update wait for each other."""

    patience_s: float = PATIENCE_S
    failing: str = ""
    begun: dict[str, threading.Event] = field(
        default_factory=lambda: {role: threading.Event() for role in ("rollout", "actor")}
    )
    let_go: threading.Event = field(default_factory=threading.Event)
    busy: set[str] = field(default_factory=set)
    moved: list[tuple[str, int]] = field(default_factory=list)
    version: int = 0

    def generate(self, rows: np.ndarray, first_sample: int) -> RolloutBatch:
        if first_sample == BATCH:
            self._meet("rollout", "actor")
        shape = (len(rows), COUNT)
        return RolloutBatch(
            responses_to(rows), torch.as_tensor(rows), torch.ones(shape, dtype=torch.bool), torch.zeros(shape),
            self.version,
        )  # fmt: skip

    def update(self, step: int, pairs: PreferenceBatch, ref_logps: np.ndarray) -> dict[str, float]:
        if step == 0:
            self._meet("actor", "rollout")
        return {"loss": 0.5, "grad_norm": 1.0}

    def _meet(self, own: str, other: str) -> None:
        self.busy.add(own)
        self.begun[own].set()
        if not self.begun[other].wait(self.patience_s):
            raise TimeoutError(f"{other} did not begin while {own} worked")
        if self.failing == own:
            raise ArithmeticError(f"{own} failed")
        if self.failing:
            self.let_go.wait(self.patience_s)
        self.busy.discard(own)

    def send_weights(self, version: int) -> None:
        self._move("publish", version)

    def receive_weights(self, version: int) -> int:
        self._move("receive", version)
        self.version = version
        return version

    def _move(self, verb: str, version: int) -> None:
        assert not self.busy, f"weights moved while {self.busy} worked"
        self.moved.append((verb, version))

    def save(self, *args: Any) -> str:
        return "folder"

    def host_weight_group(self, host: str) -> str:
        return host

    def join_weight_group(self, *args: Any) -> None:
        """Nothing travels here."""


@dataclass
class Processes:
    """A pool of one process, as far as handles see it; `at_once` false waits for every call before the next."""

    roles: AtWork
    at_once: bool = True
    size, host = 1, "here"
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def call(self, method: Callable[..., Any], *args: Any) -> list[Any]:
        return self.start(method, *args).result()

    def start(self, method: Callable[..., Any], *args: Any) -> Future[list[Any]]:
        pending = self.threads.submit(lambda: [getattr(self.roles, method.__name__)(*args)])
        if not self.at_once:
            pending.exception()
        return pending


def train(work: AtWork, folder: Path, at_once: bool = True) -> int:
    """Two steps by the handles of a real run."""
    actor, rollout = Processes(work, at_once), Processes(work, at_once)
    loop_run = ahead(FakeRoles(), LoopSchedule(0, 2), folder)
    loop_run.actor = ActorGroup(actor)  # type: ignore[arg-type]
    loop_run.rollout = RolloutGroup(rollout, actor, num_senders=1)  # type: ignore[arg-type]
    return loop_run.fit()


def test_rollout_and_actor_work_at_the_same_time_and_weights_move_when_neither_does(tmp_path: Path) -> None:
    work = AtWork()
    assert train(work, tmp_path) == 2
    assert sorted(work.moved) == [("publish", 1), ("publish", 2), ("receive", 1), ("receive", 2)]


def test_one_after_the_other_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="actor did not begin while rollout worked"):
        train(AtWork(TOO_SHORT_S), tmp_path, at_once=False)


@pytest.mark.parametrize("failing", ["rollout", "actor"])
def test_the_role_that_fails_is_reported_and_no_weights_move(failing: str, tmp_path: Path) -> None:
    work = AtWork(failing=failing)
    if failing == "rollout":
        # Training ends; an actor that fails does not wait for a rollout that never returns.
        work.let_go.set()
    with pytest.raises(ArithmeticError, match=f"{failing} failed"):
        train(work, tmp_path)
    assert work.moved == []
    work.let_go.set()
