"""The model that learns: one process of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.algorithms.schedule import lr_at
from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.dataset import PreferenceDataset, PromptDataset
from mindspeed_dpo.engine import checkpoint
from mindspeed_dpo.engine.training import TrainingEngine
from mindspeed_dpo.models.head import LOGP
from mindspeed_dpo.observability.metrics import MetricSums
from mindspeed_dpo.observability.names import EVAL_PREFIX
from mindspeed_dpo.workers.building import Seat, build_feed, build_model
from mindspeed_dpo.workers.lessons import lessons
from mindspeed_dpo.workers.publishing import Publishing
from mindspeed_dpo.workers.roles import Logps, Pairs, Rows
from mindspeed_dpo.workers.scoring import amounts, score_pairs, token_statistics
from mindspeed_dpo.workers.settings import beta_of, learning_rate_of, objective_of, steps_per_iteration
from mindspeed_dpo.workers.sources import sampling_of


class ActorWorker:
    """One process of the policy: its stage of the model, its share of the data, the objective."""

    def __init__(self, seat: Seat, role: RoleConfig, dataset: PreferenceDataset | PromptDataset) -> None:
        """Build the model, load its weights, and make it trainable."""
        self.seat = seat
        self.role = role
        self.statistics = seat.run.loop.log_token_statistics
        self.engine = TrainingEngine(build_model(seat, role, statistics=self.statistics), role.optimizer, role.parallel)
        self.publishing = Publishing(seat, role, self.engine)
        # Prompts are of no use here: pairs made of the policy's own answers come with the call.
        self.feed = build_feed(seat, role, dataset if isinstance(dataset, PreferenceDataset) else None)
        # Only the first rank describes checkpoints, and the hash may read all of the data.
        writes = dist.get_rank() == 0
        self._sampling = sampling_of(seat.run, len(dataset)) if writes else None
        self.objective = objective_of(role)
        self.learning_rate = learning_rate_of(role, seat.run.loop.train_iters)

    def log_probs(self, pairs: Pairs) -> Logps | None:
        """See `score_pairs`."""
        return score_pairs(self.engine, self.feed, pairs)

    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float] | None:
        """Learn from one iteration; metrics from the one process that speaks for the job, None from the others.

        Metrics are means over the pairs of all optimizer steps; a gradient that is not finite ends the iteration.
        """
        run, sums = self.seat.run, MetricSums()
        beta = beta_of(self.role, step, run.loop.train_iters)
        self.objective = replace(self.objective, beta=beta)
        feed, rows = self.feed.over(pairs)
        norms, rate = [], 0.0
        for lesson in lessons(run, step, len(rows)):
            batches = feed.micro_batches(rows[lesson.positions], ref_logps[lesson.positions])
            rate = lr_at(step * steps_per_iteration(self.role) + lesson.number, self.learning_rate)
            norms.append(self._learn(batches, len(lesson.positions), rate, sums))
            if not math.isfinite(norms[-1]):
                break
        metrics = self._means(sums)
        return metrics and {**metrics, "grad_norm": sum(norms) / len(norms), "learning_rate": rate, "beta": beta}

    def _learn(self, batches: Sequence[PackedBatch], num_pairs: int, rate: float, sums: MetricSums) -> float:
        """One optimizer step over this rank's share of its pairs; the norm of the whole gradient."""

        def loss_sum(batch: PackedBatch, columns: Tensor) -> Tensor:
            losses, measured = self._measure(batch, columns)
            sums.merge(measured)
            return losses.sum()

        self.engine.accumulate(batches, loss_sum, num_pairs)
        sums.merge(amounts(batches, self.seat.place))
        return self.engine.step(rate)

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float] | None:
        """Measure rows without learning; metrics as in `update`, with the evaluation prefix."""
        sums = MetricSums()
        size = self.role.batch.global_batch_size
        for start in range(0, len(rows), size):
            batches = self.feed.micro_batches(rows[start : start + size], ref_logps[start : start + size])
            # Off the last stage nothing is scored, and there is nothing to measure.
            for batch, columns in zip(batches, self.engine.score(batches), strict=False):
                sums.merge(self._measure(batch, columns)[1])
        return self._means(sums, prefix=EVAL_PREFIX)

    def save(self, iteration: int, totals: Mapping[str, int]) -> str:
        """Write a checkpoint of all processes, `totals` with it; the folder comes back from every one."""
        settings = self.role.checkpoint
        root = Path(settings.save)
        parts = checkpoint.Parts(optimizer=not settings.no_save_optim, rng=not settings.no_save_rng)
        folder = checkpoint.save(root, self.engine, self.seat.accelerator, parts, self._metadata(iteration, totals))
        return str(folder)

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """Continue from a checkpoint; random state fits only the layout that wrote it."""
        checkpoint.load(Path(folder), self.engine, self.seat.accelerator, checkpoint.Parts(optimizer, rng))

    def host_link(self, host: str) -> str | None:
        """See `Publishing.host_link`."""
        return self.publishing.host_link(host)

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """See `Publishing.open_link`."""
        self.publishing.open_link(address, publishers, receivers)

    def publish(self, version: int) -> None:
        """See `Publishing.publish`."""
        self.publishing.publish(version)

    def weights_digest(self) -> dict[str, int] | None:
        """See `Publishing.digest`."""
        return self.publishing.digest()

    def _measure(self, batch: PackedBatch, columns: Tensor) -> tuple[Tensor, MetricSums]:
        """Losses [P], each times its pair's weight, and the metrics of a micro-batch."""
        logps = batch.sum_by_response(columns[:, LOGP])
        result = self.objective(logps, batch.response_lengths, batch.ref_logps, batch.weights)
        if self.statistics:
            result.sums.merge(token_statistics(batch, columns))
        return result.losses, result.sums

    def _means(self, sums: MetricSums, prefix: str = "") -> dict[str, float] | None:
        """Means over all replicas, by one collective; only the last stage has anything to say."""
        place = self.seat.place
        if not place.is_last_stage:
            return None
        vector = sums.vector()
        dist.all_reduce(vector, dist.ReduceOp.SUM, parallel_state.get_data_parallel_group())
        speaks = place.is_output and place.dp_rank == 0
        return MetricSums.from_vector(sums.names, vector).means(prefix) if speaks else None

    def _reference_path(self) -> str | None:
        ref = self.seat.run.ref
        return os.path.abspath(ref.checkpoint.load) if ref is not None and ref.checkpoint.load else None

    def _topology(self) -> dict[str, int]:
        topology = self.seat.place.topology
        return {"tp": topology.tp, "pp": topology.pp, "dp": topology.dp}

    def _metadata(self, iteration: int, totals: Mapping[str, int]) -> dict[str, object]:
        return {
            "iteration": iteration,
            "model": self.role.model.as_dict(),
            "topology": self._topology(),
            "output_dir": os.path.abspath(self.seat.run.loop.output_dir),
            "sampling": self._sampling,
            "reference": self._reference_path(),
            "totals": dict(totals),
        }
