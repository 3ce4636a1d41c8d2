"""Reward and reference on pools of their own work at the same time: each call waits until the other has begun."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.controller.role_groups import ReferenceGroup, RewardGroup
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.workers.role_values import ReplicaValues
from mindspeed_dpo.workers.scorer import Scored
from tests.unit.trainers.test_online_dpo import COUNT, FakeRoles, trainer

PATIENCE_S = 20.0
TOO_SHORT_S = 0.2


@dataclass
class Meeting:
    """Two roles that return only after both have begun, and note when they worked."""

    patience_s: float
    begun: dict[str, threading.Event] = field(
        default_factory=lambda: {role: threading.Event() for role in ("reward", "ref")}
    )
    worked: dict[str, tuple[float, float]] = field(default_factory=dict)

    def score(self, rollouts: RolloutBatch) -> Scored:
        self._meet("reward", "ref")
        scores = np.tile(np.array([0.0, 1.0], np.float32), (rollouts.num_prompts, 1))
        return Scored(scores).validated(rollouts.rows.tolist())

    def log_probs(self, pairs: PreferenceBatch) -> ReplicaValues:
        self._meet("ref", "reward")
        count = len(pairs.prompt_lengths)
        return ReplicaValues(np.arange(count), np.zeros((count, COUNT), np.float32))

    def _meet(self, own: str, other: str) -> None:
        start = time.perf_counter()
        self.begun[own].set()
        if not self.begun[other].wait(self.patience_s):
            raise TimeoutError(f"{other} did not begin while {own} worked")
        self.worked[own] = start, time.perf_counter()


@dataclass
class Pool:
    """One process of a pool, as far as handles see it; `at_once` false waits for every call before the next."""

    roles: Meeting
    at_once: bool
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def start(self, method: Callable[..., Any], *args: Any) -> Future[list[Any]]:
        pending = self.threads.submit(lambda: [getattr(self.roles, method.__name__)(*args)])
        if not self.at_once:
            pending.result()
        return pending


def step(meeting: Meeting, folder: Path, at_once: bool) -> None:
    online = trainer(FakeRoles(), LoopSchedule(0, 1), folder)
    online.reward = RewardGroup(Pool(meeting, at_once))  # type: ignore[arg-type]
    online.reference = ReferenceGroup(Pool(meeting, at_once))  # type: ignore[arg-type]
    online.step(0)


def test_reward_and_reference_overlap(tmp_path: Path) -> None:
    meeting = Meeting(PATIENCE_S)
    step(meeting, tmp_path, at_once=True)
    (first_start, first_end), (second_start, second_end) = meeting.worked["reward"], meeting.worked["ref"]
    assert min(first_end, second_end) - max(first_start, second_start) > 0


def test_one_after_the_other_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="ref did not begin while reward worked"):
        step(Meeting(TOO_SHORT_S), tmp_path, at_once=False)
