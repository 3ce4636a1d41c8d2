"""Offline DPO: train on given preference pairs (Rafailov et al. 2023, arXiv:2305.18290). Reward models train likewise.

The trainer only orders the calls; the roles compute on their worker groups. It passes dataset row numbers, no tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.metric_names import eval_set_metrics
from mindspeed_dpo.observability.tracker import log_text
from mindspeed_dpo.trainers.evaluated_pairs import EvaluatedPairs
from mindspeed_dpo.trainers.loop import TrainingLoop
from mindspeed_dpo.trainers.nan_check import check_finite
from mindspeed_dpo.trainers.reference_logprobs import ReferenceSource
from mindspeed_dpo.trainers.sample_texts import pairs_as_markdown
from mindspeed_dpo.trainers.step_timer import StepTimer
from mindspeed_dpo.workers.role_values import Logps


@dataclass
class OfflineDPOTrainer(TrainingLoop):
    """Trains the actor on the pairs of a dataset.

    Attributes:
        actor: The policy.
        schedule: Length of the run and intervals.
        tracker: Receives the metrics.
        reference: Source of the reference's log-probabilities.
        sampler: Samples the training rows of each step; its numbers index `train_rows`.
        train_rows: [n] int64 dataset rows to train on.
        eval_sets: Set name -> [m] int64 dataset rows to evaluate on; empty sets are dropped.
        row_tokens: [rows] int64 input tokens of each dataset row, the prompt counted once per response.
        evaluated_pairs: Receives the margins of each evaluation; None for nothing.
    """

    actor: ActorGroup
    reference: ReferenceSource
    sampler: PairSampler
    train_rows: NDArray[np.int64]
    eval_sets: Mapping[str, NDArray[np.int64]]
    row_tokens: NDArray[np.int64]
    evaluated_pairs: EvaluatedPairs | None = None
    _eval_ref_logps: dict[str, Logps] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Count the tokens of the steps before the first."""
        self._has_several_sets = len(self.eval_sets) > 1
        self.eval_sets = {name: rows for name, rows in self.eval_sets.items() if len(rows)}
        self._num_tokens = self._tokens_until(self.schedule.first_step)

    def step(self, step: int) -> dict[str, float]:
        """Do one policy update: get the reference's log-probabilities, train, check, measure."""
        timer = StepTimer()
        rows = self.train_rows[self.sampler.rows(step)]
        with timer("timing/ref"), live_status.phase("reference"):
            ref_logps = self.reference.log_probs(rows)
        with timer("timing/update_actor"), live_status.phase("update"):
            metrics = self.actor.update(step, rows, ref_logps)
        check_finite(step, metrics)
        if self.reference.sync_if_due(step + 1):
            self._eval_ref_logps.clear()
        return {**metrics, **self._throughput(step + 1, rows, timer.total_s), **timer.seconds}

    def evaluate(self, num_done: int) -> dict[str, float]:
        """Evaluate on every set if it is due; with several sets the metrics' names contain the set's."""
        if not self.eval_sets or not self.is_evaluation_due(num_done):
            return {}
        timer, metrics, margins = StepTimer(), {}, {}
        with timer("timing/eval"), live_status.phase("evaluation"):
            for name, rows in self.eval_sets.items():
                of_rows = self.actor.evaluate(rows, self._ref_logps_of(name))
                metrics.update(eval_set_metrics(name, of_rows) if self._has_several_sets else of_rows)
                if self.evaluated_pairs is not None:
                    margins[name] = self.actor.evaluated_margins()
        if self.evaluated_pairs is not None:
            examples = self.evaluated_pairs.write(num_done, self.eval_sets, margins)
            if examples:
                log_text(self.tracker, num_done, "evaluated pairs", pairs_as_markdown(examples))
        return {**metrics, **timer.seconds}

    def _ref_logps_of(self, name: str) -> Logps:
        """Return the reference's log-probabilities of a set, cached until the reference is updated."""
        if name not in self._eval_ref_logps:
            self._eval_ref_logps[name] = self.reference.log_probs(self.eval_sets[name])
        return self._eval_ref_logps[name]

    def _throughput(self, num_done: int, rows: NDArray[np.int64], duration_s: float) -> dict[str, float]:
        tokens = int(self.row_tokens[rows].sum())
        self._num_tokens += tokens
        return {
            "epoch": self.sampler.epoch(num_done),
            "consumed_samples": num_done * self.sampler.global_batch_size,
            "num_tokens": self._num_tokens,
            "tokens_per_s": tokens / duration_s,
            "pairs_per_s": len(rows) / duration_s,
            "timing/all": duration_s,
        }

    def _tokens_until(self, num_done: int) -> int:
        """Count the input tokens of the first steps: complete epochs by their sum, the rest row by row."""
        tokens = self.row_tokens[self.train_rows]
        epochs, rest = divmod(num_done * self.sampler.global_batch_size, self.sampler.num_rows)
        part = tokens[self.sampler.window(epochs * self.sampler.num_rows, rest)].sum() if rest else 0
        return int(epochs * tokens.sum() + part)
