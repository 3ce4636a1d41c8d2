"""Offline DPO: learn from given pairs of answers (Rafailov et al. 2023, arXiv:2305.18290).

Only the order of things is here. Who computes what on which device is behind the roles; rows are numbers, and no token
passes through this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.observability.names import of_set
from mindspeed_dpo.trainers.loop import TrainingLoop, check_finite, is_due
from mindspeed_dpo.trainers.timer import Stopwatch
from mindspeed_dpo.workers.interfaces import Actor, Logps, Reference


@dataclass
class OfflineDPOTrainer(TrainingLoop):
    """Drives the actor through the pairs of a dataset.

    Attributes:
        actor: The policy.
        plan: Length and intervals.
        tracker: Takes the metrics.
        reference: Knows the reference's log-probabilities.
        sampler: Says which training rows a step takes; its numbers index `train_rows`.
        train_rows: [n] int64 dataset rows to learn from.
        eval_sets: Name to [m] int64 dataset rows that are not learned from; sets without rows are left out.
        row_tokens: [rows] int64 input tokens of each row of the dataset, the prompt counted once per response.
    """

    actor: Actor
    reference: Reference
    sampler: PairSampler
    train_rows: NDArray[np.int64]
    eval_sets: Mapping[str, NDArray[np.int64]]
    row_tokens: NDArray[np.int64]
    _eval_ref_logps: dict[str, Logps] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Count the tokens of the steps before the first."""
        self._several_sets = len(self.eval_sets) > 1
        self.eval_sets = {name: rows for name, rows in self.eval_sets.items() if len(rows)}
        self._num_tokens = self._tokens_until(self.plan.first_step)

    def step(self, step: int) -> dict[str, float]:
        """Look up the reference, learn, measure: one policy update."""
        watch = Stopwatch()
        rows = self.train_rows[self.sampler.rows(step)]
        with watch("timing/ref"):
            ref_logps = self.reference.log_probs(rows)
        with watch("timing/update_actor"):
            metrics = self.actor.update(step, rows, ref_logps)
        check_finite(step, metrics)
        if self.reference.follow(step + 1):
            self._eval_ref_logps.clear()
        return {**metrics, **self._amounts(step + 1, rows, watch.total_s), **watch.seconds}

    def evaluate(self, done: int) -> dict[str, float]:
        """Measure every set when it is time to; several sets have their name in that of the metric."""
        if not self.eval_sets or not (is_due(done, self.plan.eval_interval) or self._is_last(done)):
            return {}
        watch, metrics = Stopwatch(), {}
        with watch("timing/eval"):
            for name, rows in self.eval_sets.items():
                found = self.actor.evaluate(rows, self._ref_logps_of(name))
                metrics.update(of_set(name, found) if self._several_sets else found)
        return {**metrics, **watch.seconds}

    def _ref_logps_of(self, name: str) -> Logps:
        """Once is enough until the reference follows the policy: the rows do not change."""
        if name not in self._eval_ref_logps:
            self._eval_ref_logps[name] = self.reference.log_probs(self.eval_sets[name])
        return self._eval_ref_logps[name]

    def _is_last(self, done: int) -> bool:
        return self.plan.eval_interval is not None and done == self.plan.last_step

    def _amounts(self, done: int, rows: NDArray[np.int64], seconds: float) -> dict[str, float]:
        tokens = int(self.row_tokens[rows].sum())
        self._num_tokens += tokens
        return {
            "epoch": self.sampler.epoch(done),
            "consumed_samples": done * self.sampler.global_batch_size,
            "num_tokens": self._num_tokens,
            "tokens_per_s": tokens / seconds,
            "pairs_per_s": len(rows) / seconds,
            "timing/all": seconds,
        }

    def _tokens_until(self, done: int) -> int:
        """Input tokens of all steps so far: whole epochs by their sum, the rest row by row."""
        tokens = self.row_tokens[self.train_rows]
        epochs, rest = divmod(done * self.sampler.global_batch_size, self.sampler.num_rows)
        part = tokens[self.sampler.window(epochs * self.sampler.num_rows, rest)].sum() if rest else 0
        return int(epochs * tokens.sum() + part)
