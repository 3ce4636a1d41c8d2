"""The actor: the policy that is trained, on one process."""

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
from typing_extensions import override

from mindspeed_dpo.algorithms.beta_dpo import with_adapted_beta
from mindspeed_dpo.algorithms.cross_pair_values import CrossPairValues, cross_pair_values
from mindspeed_dpo.algorithms.lr_and_beta_schedules import lr_at
from mindspeed_dpo.algorithms.objective import PairValues, PreferenceObjective
from mindspeed_dpo.algorithms.token_statistics import token_statistics
from mindspeed_dpo.algorithms.wpo import wpo_weights
from mindspeed_dpo.batches import PackedBatch, RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.engine.checkpoints import save_and_load
from mindspeed_dpo.engine.checkpoints.async_checkpoint import PendingCheckpoint
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import read_metadata
from mindspeed_dpo.engine.router_statistics import mean_values
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.observability.metric_names import EVAL_PREFIX
from mindspeed_dpo.observability.metric_sums import MetricSums
from mindspeed_dpo.parallel.rank_sums import sum_over_ranks
from mindspeed_dpo.workers.batching.cross_pair_gather import gather_step_values
from mindspeed_dpo.workers.batching.minibatches import minibatches
from mindspeed_dpo.workers.logprobs import (
    kl_surrogate,
    response_logps,
    score_pairs,
    workload_metrics,
)
from mindspeed_dpo.workers.role_interfaces import Actor, Logps, Pairs, ReplicaValues, Rows
from mindspeed_dpo.workers.setup.initial_weights import adapters_on_weights
from mindspeed_dpo.workers.setup.model_builder import build_trained_model, make_batch_builder
from mindspeed_dpo.workers.setup.objective_and_schedule import (
    beta_of,
    learning_rate_of,
    objective_of,
    steps_per_iteration,
)
from mindspeed_dpo.workers.setup.worker_context import WorkerContext, max_peak_memory_bytes
from mindspeed_dpo.workers.weight_sync.sender import WeightSender


class ActorWorker(Actor):
    """One process of the policy: its part of the model, its share of the data, the objective.

    Attributes:
        ema_reference: The model of a reference that is updated towards this policy (`sync_ref_model`) and saved in its
            checkpoints; None without one.
    """

    ema_reference: PipelineStage | None = None

    def __init__(self, context: WorkerContext, role: RoleConfig, dataset: TrainEvalPairs | PromptDataset) -> None:
        """Build the model, load its weights and wrap it for training; a collective.

        Args:
            context: Context of this process.
            role: Settings of the actor.
            dataset: The run's dataset; where it holds prompts, pairs come with each call instead.
        """
        self.context = context
        self.role = role
        self.statistics = context.run.loop.log_token_statistics
        model = build_trained_model(context, role, statistics=self.statistics or role.loss.use_weighting)
        self.engine = TrainingEngine(model, role.optimizer, role.parallel)
        self.weight_sender = WeightSender(context, role, self.engine)
        self.batch_builder = make_batch_builder(context, role, None if isinstance(dataset, PromptDataset) else dataset)
        # Only rank 0 writes the metadata of checkpoints, and the hash may read all of the data.
        is_writer = dist.get_rank() == 0
        self._sampling = sampling_of(context.run, len(dataset)) if is_writer else None
        self._adapters = adapters_on_weights(role) if is_writer else None
        self.objective = objective_of(role)
        self._mean_margin = 0.0
        self._pending_checkpoint: PendingCheckpoint | None = None
        self.learning_rate = learning_rate_of(role, context.run.loop.train_iters)

    @override
    def log_probs(self, pairs: Pairs) -> ReplicaValues | None:
        return score_pairs(self.engine, self.batch_builder, pairs, self.role.loss.ld_alpha)

    @override
    def update(self, step: int, pairs: Pairs, ref_logps: Logps) -> dict[str, float] | None:
        run, sums = self.context.run, MetricSums()
        beta = beta_of(self.role, step, run.loop.train_iters)
        batch_builder, rows = self.batch_builder.over(pairs)
        norms, rate = [], 0.0
        of_routers: list[dict[str, Tensor]] = []
        for minibatch in minibatches(run, step, len(rows)):
            self.objective = replace(self.objective, beta=beta)
            batches = batch_builder.micro_batches(rows[minibatch.positions], ref_logps[minibatch.positions])
            rate = lr_at(step * steps_per_iteration(self.role) + minibatch.number, self.learning_rate)
            norms.append(self._train_step(batches, len(minibatch.positions), rate, sums))
            of_routers.append(self.engine.router_metrics(len(minibatch.positions)))
            if not math.isfinite(norms[-1]):
                break
        metrics = self._means(sums)
        peak_bytes = max_peak_memory_bytes(self.context)
        if metrics is None:
            return None
        rates = {"grad_norm": sum(norms) / len(norms), "learning_rate": rate, "beta": self.objective.beta}
        return {**metrics, **rates, **mean_values(of_routers), "memory/peak_bytes": peak_bytes}

    def _train_step(self, batches: Sequence[PackedBatch], num_pairs: int, rate: float, sums: MetricSums) -> float:
        """Do one optimizer step on this rank's share of its pairs; return the global gradient norm."""
        scored = self.engine.score(batches) if self.role.loss.needs_step_logps else None
        cross_pair = self._cross_pair(batches, scored, num_pairs, adapt_beta=True)

        def loss_sum(batch: PackedBatch, columns: Tensor) -> Tensor:
            losses, measured = self._losses_and_metrics(batch, columns, cross_pair)
            sums.merge(measured)
            return total(losses)

        self.engine.accumulate(batches, loss_sum, num_pairs)
        sums.merge(workload_metrics(batches, self.context.place, self.role.batch.micro_batch_tokens))
        return self.engine.step(rate)

    @override
    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float] | None:
        sums = MetricSums()
        size = self.role.batch.global_batch_size
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            batches = self.batch_builder.micro_batches(part, ref_logps[start : start + size])
            scored = self.engine.score(batches)
            cross_pair = self._cross_pair(batches, scored, len(part))
            # Only the last stage has scores.
            for batch, columns in zip(batches, scored, strict=False):
                sums.merge(self._losses_and_metrics(batch, columns, cross_pair)[1])
        return self._means(sums, prefix=EVAL_PREFIX)

    @override
    def save(self, iteration: int, remembered: Mapping[str, Any], ahead: RolloutBatch | None = None) -> str:
        settings = self.role.checkpoint
        root = Path(settings.save)
        parts = save_and_load.CheckpointParts(optimizer=not settings.no_save_optim, rng=not settings.no_save_rng)
        metadata = {**self._metadata(iteration), "usual_margin": self._broadcast_mean_margin(), **remembered}
        pending = save_and_load.start_save(
            *(root, self.engine, self.context.accelerator, parts, metadata, self.ema_reference, ahead),
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
        self._mean_margin = read_metadata(Path(folder)).get("usual_margin", 0.0) if optimizer else 0.0

    @override
    def host_weight_group(self, host: str) -> str | None:
        return self.weight_sender.host_group(host)

    @override
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        self.weight_sender.join_group(address, num_senders, num_receivers)

    @override
    def send_weights(self, version: int) -> None:
        self.weight_sender.send(version)

    @override
    def weights_digest(self) -> dict[str, int] | None:
        return self.weight_sender.digest()

    def _broadcast_mean_margin(self) -> float:
        """Return the running mean of margins (beta-DPO) on every rank; only the last stage has it, rank 0 saves it."""
        if not self.role.loss.beta_dpo_alpha:
            return 0.0
        # The other processes add zeros to the bits, since a device may support no float64.
        value = torch.tensor(self._mean_margin if self._has_metrics else 0.0, dtype=torch.float64)
        bits = value.view(torch.int64).to(self.context.device)
        dist.all_reduce(bits, dist.ReduceOp.SUM)
        return bits.cpu().view(torch.float64).item()

    @property
    def _has_metrics(self) -> bool:
        """Whether this rank returns metrics: the output rank of the first replica."""
        return self.context.place.is_output and self.context.place.dp_rank == 0

    def _cross_pair(
        self,
        batches: Sequence[PackedBatch],
        scored: Sequence[Tensor] | None,
        num_pairs: int,
        *,
        adapt_beta: bool = False,
    ) -> CrossPairValues | None:
        """Return what the losses need to know of the step's other pairs, and adapt this step's beta if configured.

        None on all but the last stage, and where every loss depends on its own pair only.
        """
        loss = self.role.loss
        if not loss.is_grouped or not self.context.place.is_last_stage:
            return None
        values = gather_step_values(batches, scored, num_pairs, loss.ld_alpha)
        if adapt_beta and loss.beta_dpo_alpha:
            assert isinstance(self.objective, PreferenceObjective)
            self.objective, self._mean_margin = with_adapted_beta(self.objective, values, self._mean_margin)
        return cross_pair_values(values, loss.dpo_loss_type, loss.loss_group_size)

    def _losses_and_metrics(
        self, batch: PackedBatch, columns: Tensor, cross_pair: CrossPairValues | None
    ) -> tuple[Tensor, MetricSums]:
        """Return the losses [P] of a micro-batch, each times its pair's weight, and its metrics."""
        loss = self.role.loss
        pairs = PairValues(
            logps=response_logps(batch, columns, loss.ld_alpha),
            lengths=batch.response_lengths,
            ref_logps=batch.ref_logps,
            weights=batch.weights,
            factors=batch.factors,
            wpo_weights=wpo_weights(batch, columns, clamp=loss.clamp_weighting) if loss.use_weighting else None,
            margins=batch.margins,
            cross_pair=cross_pair and cross_pair.of(batch.pair_ids),
            logp_weights=batch.logp_weights,
            kl_surrogate=kl_surrogate(batch, columns),
        )
        result = self.objective(pairs)
        if self.statistics:
            result.sums.merge(token_statistics(batch, columns))
        return result.losses, result.sums

    def _means(self, sums: MetricSums, prefix: str = "") -> dict[str, float] | None:
        """Average metrics over all replicas with one collective of the last stage."""
        if not self.context.place.is_last_stage:
            return None
        vector = sum_over_ranks(sums.vector(), parallel_state.get_data_parallel_group())
        return MetricSums.from_vector(sums.names, vector).means(prefix) if self._has_metrics else None

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
            "topology": self._topology(),
            "output_dir": os.path.abspath(self.context.run.loop.output_dir),
            "sampling": self._sampling,
            "reference": self._reference_path(),
            "adapters": self._adapters,
            "online_method": self.role.pairing.online_method if self.context.run.is_online else None,
        }
