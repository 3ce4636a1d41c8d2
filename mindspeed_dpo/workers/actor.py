"""The actor: the model that is trained, a policy or a reward model, on one process."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor
from typing_extensions import override

from mindspeed_dpo.algorithms import logp_difference
from mindspeed_dpo.algorithms.lr_and_beta_schedules import lr_at
from mindspeed_dpo.batches import PackedBatch, PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs, TrainEvalPrompts
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.engine.checkpoints import save_and_load
from mindspeed_dpo.engine.checkpoints.async_checkpoint import PendingCheckpoint
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import read_metadata
from mindspeed_dpo.engine.router_statistics import mean_values
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.observability.metric_names import EVAL_PREFIX
from mindspeed_dpo.observability.metric_sums import MetricSums
from mindspeed_dpo.parallel.rank_sums import sum_over_ranks
from mindspeed_dpo.workers.batching.minibatches import minibatches
from mindspeed_dpo.workers.criteria.criterion import Criterion
from mindspeed_dpo.workers.criteria.preference_criterion import PreferenceCriterion
from mindspeed_dpo.workers.criteria.ranking_criterion import RankingCriterion
from mindspeed_dpo.workers.logprobs import score_pairs, share, workload_metrics
from mindspeed_dpo.workers.role_interfaces.actor_interface import REFERENCE, ROLLOUT, Actor
from mindspeed_dpo.workers.role_values import Logps, Pairs, ReplicaValues, Rows
from mindspeed_dpo.workers.setup.initial_weights import adapters_on_weights
from mindspeed_dpo.workers.setup.model_builder import (
    build_trained_model,
    build_trained_reward_model,
    make_batch_builder,
)
from mindspeed_dpo.workers.setup.objective_and_schedule import learning_rate_of, steps_per_iteration
from mindspeed_dpo.workers.setup.worker_context import WorkerContext, max_over_ranks
from mindspeed_dpo.workers.weight_sync.sender import WeightSender


class ActorWorker(Actor):
    """One process of the trained model: its part of the model, its share of the data, the criterion.

    Attributes:
        ema_reference: The model of a reference that is updated towards this policy (`sync_ref_model`) and saved in its
            checkpoints; None without one.
    """

    ema_reference: PipelineStage | None = None

    def __init__(self, context: WorkerContext, role: RoleConfig, dataset: TrainEvalPairs | TrainEvalPrompts) -> None:
        """Build the model, load its weights and wrap it for training; a collective.

        Args:
            context: Context of this process.
            role: Settings of the actor.
            dataset: The run's dataset; where it holds prompts, pairs come with each call instead.
        """
        self.context = context
        self.role = role
        model, self.criterion = _model_and_criterion(context, role)
        self.engine = TrainingEngine(model, role.optimizer, role.parallel)
        self.weight_sender = WeightSender(context, role, self.engine)
        self._senders = {ROLLOUT: self.weight_sender, REFERENCE: WeightSender(context, role, self.engine, "reference")}
        self.batch_builder = make_batch_builder(
            context, role, None if isinstance(dataset, TrainEvalPrompts) else dataset
        )
        # Only rank 0 writes the metadata of checkpoints, and the hash may read all of the data.
        is_writer = dist.get_rank() == 0
        self._sampling = sampling_of(context.run, len(dataset)) if is_writer else None
        self._adapters = adapters_on_weights(role) if is_writer else None
        self._pending_checkpoint: PendingCheckpoint | None = None
        self.learning_rate = learning_rate_of(role, context.run.loop.train_iters)

    @override
    def log_probs(self, pairs: Pairs) -> ReplicaValues | None:
        return score_pairs(self.engine, self.batch_builder, pairs, self.role.loss.ld_alpha)

    @override
    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float] | None:
        run, sums = self.context.run, MetricSums()
        batch_builder, rows = self.batch_builder.over(pairs)
        norms, rate = [], 0.0
        of_routers: list[dict[str, Tensor]] = []
        for minibatch in minibatches(run, step, len(rows)):
            self.criterion.begin(step)
            if minibatch.number:
                # The weights have moved since the responses were sampled.
                batch_builder, _ = self.batch_builder.over(_without_rollout_logps(pairs))
            references = self._references(ref_logps[minibatch.positions])
            batches = batch_builder.micro_batches(rows[minibatch.positions], references)
            rate = lr_at(step * steps_per_iteration(self.role) + minibatch.number, self.learning_rate)
            norms.append(self._train_step(batches, len(minibatch.positions), rate, sums))
            of_routers.append(self.engine.router_metrics(len(minibatch.positions)))
            if not math.isfinite(norms[-1]):
                break
        metrics = self._means(sums)
        largest_difference = self.criterion.take_largest_logp_difference()
        peak_bytes, difference = max_over_ranks(
            self.context, [self.context.accelerator.peak_memory_bytes(), largest_difference]
        )
        if metrics is None:
            return None
        rates = {"grad_norm": sum(norms) / len(norms), "learning_rate": rate, **self.criterion.metrics()}
        if logp_difference.MEAN in metrics:
            metrics[logp_difference.MAX] = difference
        return {**metrics, **rates, **mean_values(of_routers), "memory/peak_bytes": peak_bytes}

    def _references(self, ref_logps: Logps) -> Logps | None:
        """Return what micro-batches hold of the reference: nothing for a reward model, whose rows may be longer."""
        return None if self.role.has_score_head else ref_logps

    def _train_step(self, batches: Sequence[PackedBatch], num_pairs: int, rate: float, sums: MetricSums) -> float:
        """Do one optimizer step on this rank's share of its pairs; return the global gradient norm."""
        outputs = self.engine.score(batches) if self.criterion.needs_step_outputs else None
        losses_of = self.criterion.of_step(batches, outputs, num_pairs, is_training=True)

        def loss_sum(batch: PackedBatch, output: Tensor) -> Tensor:
            measured = losses_of(batch, output)
            sums.merge(measured.sums)
            return total(measured.losses)

        self.engine.accumulate(batches, loss_sum, num_pairs)
        sums.merge(workload_metrics(batches, self.context.place, self.role.batch.micro_batch_tokens))
        return self.engine.step(rate)

    @override
    def rollout_difference(self, responses: PreferenceBatch) -> dict[str, float] | None:
        batch_builder, rows = self.batch_builder.over(responses)
        batches, sums, largest = batch_builder.micro_batches(rows), MetricSums(), [0.0]
        # Only the last stage has outputs.
        for batch, columns in zip(batches, self.engine.score(batches), strict=False):
            of_batch, largest_of_batch = logp_difference.logp_difference(batch, columns)
            sums.merge(of_batch)
            largest.append(float(largest_of_batch))
        (difference,) = max_over_ranks(self.context, [max(largest)])
        metrics = self._means(sums)
        return None if metrics is None else {**metrics, logp_difference.MAX: difference}

    @override
    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float] | None:
        sums, places, margins = MetricSums(), [], []
        size = self.role.batch.global_batch_size
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            references = self._references(ref_logps[start : start + size])
            batches = self.batch_builder.micro_batches(part, references)
            outputs = self.engine.score(batches)
            losses_of = self.criterion.of_step(batches, outputs, len(part), is_training=False)
            # Only the last stage has outputs.
            for batch, output in zip(batches, outputs, strict=False):
                measured = losses_of(batch, output)
                sums.merge(measured.sums)
                assert measured.margins is not None
                real = batch.weights != 0
                places.append(start + batch.pair_ids[real])
                margins.append(measured.margins[real])
        self._margins = share(places, margins) if self.context.place.is_output else None
        return self._means(sums, prefix=EVAL_PREFIX)

    @override
    def evaluated_margins(self) -> ReplicaValues | None:
        return self._margins

    @override
    def save(
        self,
        iteration: int,
        metadata: Mapping[str, Any],
        prefetched: RolloutBatch | None = None,
        reference: SavedReference | None = None,
    ) -> str:
        settings = self.role.checkpoint
        root = Path(settings.save)
        parts = save_and_load.CheckpointParts(optimizer=not settings.no_save_optim, rng=not settings.no_save_rng)
        complete = {**self._metadata(iteration), **self.criterion.state(), **metadata}
        pending = save_and_load.start_save(
            *(root, self.engine, self.context.accelerator, parts, complete),
            reference=self.ema_reference or reference,
            prefetched=prefetched,
            in_background=settings.async_save,
        )
        if settings.async_save:
            self._pending_checkpoint = pending
            return str(pending.folder)
        return str(save_and_load.complete(pending))

    @override
    def is_written(self, wait: bool) -> bool:
        assert self._pending_checkpoint is not None, "no checkpoint was started"
        return self._pending_checkpoint.is_written(wait)

    @override
    def finish_save(self) -> None:
        pending, self._pending_checkpoint = self._pending_checkpoint, None
        if pending is not None:
            save_and_load.finish(pending)

    @override
    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        parts = save_and_load.CheckpointParts(optimizer, rng)
        save_and_load.load(Path(folder), self.engine, self.context.accelerator, parts, self.ema_reference)
        self.criterion.restore(read_metadata(Path(folder)) if optimizer else {})

    @override
    def host_weight_group(self, host: str, receiver: str = ROLLOUT) -> str | None:
        return self._senders[receiver].host_group(host)

    @override
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int, receiver: str = ROLLOUT) -> None:
        self._senders[receiver].join_group(address, num_senders, num_receivers)

    @override
    def send_weights(self, version: int, receiver: str = ROLLOUT) -> None:
        self._senders[receiver].send(version)

    @override
    def weights_digest(self) -> dict[str, int] | None:
        return self.weight_sender.digest()

    def _means(self, sums: MetricSums, prefix: str = "") -> dict[str, float] | None:
        """Average metrics over all replicas with one collective of the last stage."""
        if not self.context.place.is_last_stage:
            return None
        vector = sum_over_ranks(sums.vector(), parallel_state.get_data_parallel_group())
        if not self.context.place.reports_metrics:
            return None
        means = self.criterion.summary(MetricSums.from_vector(sums.names, vector).means())
        return {f"{prefix}{name}": value for name, value in means.items()}

    def _reference_path(self) -> str | None:
        ref = self.context.run.ref
        return os.path.abspath(ref.checkpoint.load) if ref is not None and ref.checkpoint.load else None

    def _topology(self) -> dict[str, int]:
        topology = self.context.place.topology
        sizes = {"tp": topology.tp, "pp": topology.pp, "dp": topology.dp, "cp": topology.cp}
        return {**sizes, "chunks": self.role.num_chunks}

    def _metadata(self, iteration: int) -> dict[str, object]:
        return {
            "iteration": iteration,
            "model": self.role.model.as_dict(),
            "score_head": self.role.has_score_head,
            "topology": self._topology(),
            "output_dir": os.path.abspath(self.context.run.loop.output_dir),
            "sampling": self._sampling,
            "reference": self._reference_path(),
            "adapters": self._adapters,
            "online_method": self.role.pairing.online_method if self.context.run.is_online else None,
        }


def _without_rollout_logps(pairs: Pairs) -> Pairs:
    return replace(pairs, rollout_token_logps=None) if isinstance(pairs, PreferenceBatch) else pairs


def _model_and_criterion(context: WorkerContext, role: RoleConfig) -> tuple[PipelineStage, Criterion]:
    """Build the trained model with its weights, and what it is trained for; a collective."""
    if role.has_score_head:
        return build_trained_reward_model(context, role), RankingCriterion(role)
    statistics = context.run.loop.log_token_statistics or role.loss.use_weighting
    return build_trained_model(context, role, statistics=statistics), PreferenceCriterion(context, role)
