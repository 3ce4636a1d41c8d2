"""A trainer with fake roles that record their calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer

TRAIN_ROWS = np.array([7, 2, 9, 4, 0])
EVAL_ROWS = np.array([1, 3])
ROW_TOKENS = 10 ** np.arange(10) // 7 + 3
BATCH = 3
Call = tuple[Any, ...]


@dataclass
class FakeRoles:
    """Actor, reference and tracker at once, which record their calls; a row's reference is twice the row."""

    calls: list[Call] = field(default_factory=list)
    logged: dict[int, dict[str, float]] = field(default_factory=dict)
    during_update: Callable[[int], None] = lambda step: None
    progress: dict[int, Any] = field(default_factory=dict)
    eval_losses: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=lambda: {"loss": 0.5, "grad_norm": 1.0})

    def log_probs(self, rows: np.ndarray) -> np.ndarray:
        self.calls.append(("ref", rows.tolist()))
        return np.stack([rows, 2 * rows], 1).astype(np.float32)

    def sync_if_due(self, num_done: int) -> bool:
        return False

    def update(self, step: int, rows: np.ndarray, ref_logps: np.ndarray) -> dict[str, float]:
        assert ref_logps.tolist() == [[row, 2 * row] for row in rows.tolist()]
        self.calls.append(("update", step, rows.tolist()))
        self.during_update(step)
        return dict(self.metrics)

    def evaluate(self, rows: np.ndarray, ref_logps: np.ndarray) -> dict[str, float]:
        assert ref_logps.tolist() == [[row, 2 * row] for row in rows.tolist()]
        self.calls.append(("evaluate", rows.tolist()))
        return {"eval/loss": self.eval_losses[len(self.done("evaluate")) - 1] if self.eval_losses else 0.25}

    def save(self, iteration: int, metadata: Mapping[str, Any], prefetched: None = None) -> str:
        self.progress[iteration] = copy.deepcopy(metadata["progress"])
        self.calls.append(("save", iteration))
        return f"iter_{iteration}"

    def finish_save(self, wait: bool) -> bool:
        raise AssertionError("nothing is written in the background")

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        raise AssertionError("the trainer loads nothing")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("log", step))
        self.logged[step] = dict(metrics)

    def close(self) -> None:
        raise AssertionError("the trainer does not own its tracker")

    def done(self, kind: str) -> list[Any]:
        """The arguments of the calls of one kind."""
        return [rest[0] if rest else None for name, *rest in self.calls if name == kind]


def trainer(
    roles: FakeRoles, schedule: LoopSchedule, eval_rows: np.ndarray | dict[str, np.ndarray] = EVAL_ROWS, **sampling: Any
) -> OfflineDPOTrainer:
    sampler = PairSampler(len(TRAIN_ROWS), **{"global_batch_size": BATCH, "seed": 5, **sampling})
    return OfflineDPOTrainer(
        actor=roles, reference=roles, tracker=roles, schedule=schedule, sampler=sampler, train_rows=TRAIN_ROWS,
        eval_sets=eval_rows if isinstance(eval_rows, dict) else {"split": eval_rows}, row_tokens=ROW_TOKENS,
    )  # fmt: skip
