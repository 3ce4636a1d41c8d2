"""The model that learns: one process of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.algorithms.cross_pair import AcrossPairs, across_pairs
from mindspeed_dpo.algorithms.lr_schedule import lr_at
from mindspeed_dpo.algorithms.objective import PairValues, PreferenceObjective, adapted
from mindspeed_dpo.batches import PackedBatch, RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.datasets.dataset import PromptDataset
from mindspeed_dpo.data.datasets.train_eval import EvaluatedPairs
from mindspeed_dpo.engine import checkpoint
from mindspeed_dpo.engine.async_checkpoint import BegunSave
from mindspeed_dpo.engine.checkpoint_files import read_metadata
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.chunks import ModelPart
from mindspeed_dpo.observability.metrics import MetricSums
from mindspeed_dpo.observability.names import EVAL_PREFIX
from mindspeed_dpo.workers.batching.gather_step import gather_step
from mindspeed_dpo.workers.batching.minibatches import lessons
from mindspeed_dpo.workers.interfaces import Logps, Pairs, Rows, Share
from mindspeed_dpo.workers.logprobs import agreement, amounts, pull, response_logps, score_pairs, token_statistics
from mindspeed_dpo.workers.setup.builders import Seat, build_feed, build_trained_model
from mindspeed_dpo.workers.setup.memory import largest_peak
from mindspeed_dpo.workers.setup.objectives import beta_of, learning_rate_of, objective_of, steps_per_iteration
from mindspeed_dpo.workers.setup.sources import adapters_on_weights, sampling_of
from mindspeed_dpo.workers.weight_sync.sender import Publishing


class ActorWorker:
    """One process of the policy: its part of the model, its share of the data, the objective.

    Attributes:
        follower: The model of a reference that follows this policy, kept in its checkpoints; None without one.
    """

    follower: ModelPart | None = None

    def __init__(self, seat: Seat, role: RoleConfig, dataset: EvaluatedPairs | PromptDataset) -> None:
        """Build the model, load its weights, and make it trainable."""
        self.seat = seat
        self.role = role
        self.statistics = seat.run.loop.log_token_statistics
        model = build_trained_model(seat, role, statistics=self.statistics or role.loss.use_weighting)
        self.engine = TrainingEngine(model, role.optimizer, role.parallel)
        self.publishing = Publishing(seat, role, self.engine)
        # Prompts are of no use here: pairs made of the policy's own answers come with the call.
        self.feed = build_feed(seat, role, None if isinstance(dataset, PromptDataset) else dataset)
        # Only the first rank describes checkpoints, and the hash may read all of the data.
        writes = dist.get_rank() == 0
        self._sampling = sampling_of(seat.run, len(dataset)) if writes else None
        self._adapters = adapters_on_weights(role) if writes else None
        self.objective = objective_of(role)
        self._usual_margin = 0.0
        self._begun: BegunSave | None = None
        self.learning_rate = learning_rate_of(role, seat.run.loop.train_iters)

    def log_probs(self, pairs: Pairs) -> Share | None:
        """See `score_pairs`."""
        return score_pairs(self.engine, self.feed, pairs, self.role.loss.ld_alpha)

    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float] | None:
        """Learn from one iteration; metrics from the one process that speaks for the job, None from the others.

        Metrics are means over the pairs of all optimizer steps; a gradient that is not finite ends the iteration.
        """
        run, sums = self.seat.run, MetricSums()
        beta = beta_of(self.role, step, run.loop.train_iters)
        feed, rows = self.feed.over(pairs)
        norms, rate = [], 0.0
        for lesson in lessons(run, step, len(rows)):
            self.objective = replace(self.objective, beta=beta)
            batches = feed.micro_batches(rows[lesson.positions], ref_logps[lesson.positions])
            rate = lr_at(step * steps_per_iteration(self.role) + lesson.number, self.learning_rate)
            norms.append(self._learn(batches, len(lesson.positions), rate, sums))
            if not math.isfinite(norms[-1]):
                break
        metrics = self._means(sums)
        used = largest_peak(self.seat)
        if metrics is None:
            return None
        rates = {"grad_norm": sum(norms) / len(norms), "learning_rate": rate, "beta": self.objective.beta}
        return {**metrics, **rates, "memory/peak_bytes": used}

    def _learn(self, batches: Sequence[PackedBatch], num_pairs: int, rate: float, sums: MetricSums) -> float:
        """One optimizer step over this rank's share of its pairs; the norm of the whole gradient."""
        ahead = self.engine.score(batches) if self.role.loss.needs_step_logps else None
        across = self._across(batches, ahead, num_pairs, adapt=True)

        def loss_sum(batch: PackedBatch, columns: Tensor) -> Tensor:
            losses, measured = self._measure(batch, columns, across)
            sums.merge(measured)
            return losses.sum()

        self.engine.accumulate(batches, loss_sum, num_pairs)
        sums.merge(amounts(batches, self.seat.place, self.role.batch.micro_batch_tokens))
        return self.engine.step(rate)

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float] | None:
        """Measure rows without learning; metrics as in `update`, with the evaluation prefix."""
        sums = MetricSums()
        size = self.role.batch.global_batch_size
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            batches = self.feed.micro_batches(part, ref_logps[start : start + size])
            scored = self.engine.score(batches)
            across = self._across(batches, scored, len(part))
            # Off the last stage nothing is scored, and there is nothing to measure.
            for batch, columns in zip(batches, scored, strict=False):
                sums.merge(self._measure(batch, columns, across)[1])
        return self._means(sums, prefix=EVAL_PREFIX)

    def save(self, iteration: int, remembered: Mapping[str, Any], ahead: RolloutBatch | None = None) -> str:
        """Write a checkpoint of all processes, or begin to; the folder comes back from every one. See `roles.Actor`."""
        settings = self.role.checkpoint
        root = Path(settings.save)
        parts = checkpoint.Parts(optimizer=not settings.no_save_optim, rng=not settings.no_save_rng)
        said = {**self._metadata(iteration), "usual_margin": self._usual_everywhere(), **remembered}
        begun = checkpoint.begin_save(
            *(root, self.engine, self.seat.accelerator, parts, said, self.follower, ahead),
            in_background=settings.async_save,
        )
        if settings.async_save:
            self._begun = begun
            return str(begun.folder)
        return str(checkpoint.complete(begun))

    def is_written(self, wait: bool) -> bool:
        """Whether this process has written its files of the checkpoint that was begun; see `BegunSave`."""
        assert self._begun is not None, "no checkpoint was begun"
        return self._begun.is_written(wait)

    def finish_save(self) -> None:
        """Finish the checkpoint that was begun, once all processes have written their files."""
        begun, self._begun = self._begun, None
        if begun is not None and dist.get_rank() == 0:
            begun.finish()

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """Continue from a checkpoint; random state fits only the layout that wrote it."""
        parts = checkpoint.Parts(optimizer, rng)
        checkpoint.load(Path(folder), self.engine, self.seat.accelerator, parts, self.follower)
        self._usual_margin = read_metadata(Path(folder)).get("usual_margin", 0.0) if optimizer else 0.0

    def _usual_everywhere(self) -> float:
        """The running mean of margins, which only the last stage knows; the first process writes it down."""
        if not self.role.loss.beta_dpo_alpha:
            return 0.0
        speaks = self.seat.place.is_output and self.seat.place.dp_rank == 0
        value = torch.tensor(self._usual_margin if speaks else 0.0, device=self.seat.device)
        dist.all_reduce(value, dist.ReduceOp.SUM)
        return value.item()

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

    def _across(
        self, batches: Sequence[PackedBatch], scored: Sequence[Tensor] | None, num_pairs: int, *, adapt: bool = False
    ) -> AcrossPairs | None:
        """What the losses need of the whole step; may adapt this step's beta. None where they look at single pairs."""
        loss = self.role.loss
        if not loss.is_grouped or not self.seat.place.is_last_stage:
            return None
        values = gather_step(batches, scored, num_pairs, loss.ld_alpha)
        if adapt and loss.beta_dpo_alpha:
            assert isinstance(self.objective, PreferenceObjective)
            self.objective, self._usual_margin = adapted(self.objective, values, self._usual_margin)
        return across_pairs(values, loss.dpo_loss_type, loss.loss_group_size)

    def _measure(self, batch: PackedBatch, columns: Tensor, across: AcrossPairs | None) -> tuple[Tensor, MetricSums]:
        """Losses [P], each times its pair's weight, and the metrics of a micro-batch."""
        loss = self.role.loss
        pairs = PairValues(
            logps=response_logps(batch, columns, loss.ld_alpha),
            lengths=batch.response_lengths,
            ref_logps=batch.ref_logps,
            weights=batch.weights,
            factors=batch.factors,
            agreement=agreement(batch, columns, clamp=loss.clamp_weighting) if loss.use_weighting else None,
            margins=batch.margins,
            across=across and across.of(batch.pair_ids),
            logp_weights=batch.logp_weights,
            pull=pull(batch, columns),
        )
        result = self.objective(pairs)
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
        sizes = {"tp": topology.tp, "pp": topology.pp, "dp": topology.dp, "cp": topology.cp}
        return {**sizes, "chunks": self.role.num_chunks}

    def _metadata(self, iteration: int) -> dict[str, object]:
        return {
            "iteration": iteration,
            "model": self.role.model.as_dict(),
            "topology": self._topology(),
            "output_dir": os.path.abspath(self.seat.run.loop.output_dir),
            "sampling": self._sampling,
            "reference": self._reference_path(),
            "adapters": self._adapters,
            "online_method": self.role.pairing.online_method if self.seat.run.is_online else None,
        }
