"""The reference: the frozen model that the policy is compared with, on one process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from typing_extensions import override

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.checkpoints.reference_checkpoint import load_reference, save_reference
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.engine.train_engine import ScoringEngine, TrainingEngine
from mindspeed_dpo.models.lora import adapters_disabled
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.batching.batch_builder import BatchBuilder, PairSource
from mindspeed_dpo.workers.logprobs import score_pairs, score_tokens
from mindspeed_dpo.workers.role_interfaces.reference_interface import Reference
from mindspeed_dpo.workers.role_values import Pairs, ReplicaValues
from mindspeed_dpo.workers.setup.model_builder import build_model, make_batch_builder, offload_from
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.weight_sync.mixed_weights import MixedWeights


def build_reference(
    context: WorkerContext, role: RoleConfig, dataset: PairSource | None, actor: ActorWorker | None
) -> ReferenceWorker:
    """Build the reference: a model of its own, or the actor's with its adapters disabled where that is the same.

    Args:
        context: Context of this process.
        role: Settings of the reference.
        dataset: Pairs by row; None where they come with each call.
        actor: The actor in this process, if there is one.
    """
    alpha = role.loss.ld_alpha
    if actor is not None and context.run.is_ref_within_actor:
        batch_builder = make_batch_builder(context, replace(role, parallel=actor.role.parallel), dataset)
        return ReferenceWorker(actor.engine, batch_builder, alpha, partial(adapters_disabled, actor.engine.model))
    engine = ScoringEngine(build_model(context, role), offload_from=offload_from(context, role))
    save = Path(context.run.actor.checkpoint.save)
    worker = ReferenceWorker(
        engine, make_batch_builder(context, role, dataset), alpha, engine.on_device, save_root=save
    )
    if not role.reference.sync_ref_model:
        return worker
    if actor is None:
        return replace(worker, own_weights=MixedWeights(context, role, engine.model))
    actor.ema_reference = engine.model
    return replace(worker, policy=actor.engine)


@dataclass(frozen=True)
class ReferenceWorker(Reference):
    """One process of the reference.

    Attributes:
        engine: Computes log-probabilities.
        batch_builder: Builds its micro-batches.
        ld_alpha: Weight of the tokens by which a response is longer than the other of its pair (LD-DPO).
        active: Context in which the engine's model is the reference: adapters disabled, or weights on the device.
        policy: Engine of the policy in this process that the reference is updated towards, under the same layout; None
            if it is frozen, or on processes of its own.
        save_root: Folder of the run's checkpoints.
        own_weights: Receives the policy's weights, where the reference is updated and on processes of its own.
    """

    engine: TrainingEngine | ScoringEngine
    batch_builder: BatchBuilder
    ld_alpha: float
    active: Callable[[], AbstractContextManager[None]]
    save_root: Path = Path()
    policy: TrainingEngine | None = None
    own_weights: MixedWeights | None = None

    @override
    def log_probs(self, pairs: Pairs) -> ReplicaValues | None:
        with self.active():
            return score_pairs(self.engine, self.batch_builder, pairs, self.ld_alpha)

    @override
    def token_log_probs(self, responses: PreferenceBatch) -> ReplicaValues | None:
        with self.active():
            return score_tokens(self.engine, self.batch_builder, responses)

    @override
    def ema_update(self, alpha: float) -> None:
        assert self.policy is not None, "the reference is updated only with sync_ref_model"
        with torch.no_grad(), self.policy.parameters_gathered():
            for ours, theirs in zip(self.engine.model.parameters(), self.policy.model.parameters(), strict=True):
                ours.copy_(torch.lerp(ours.float(), theirs.float(), alpha))

    @override
    def join_weight_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        self._receiver.join_group(address, num_senders, num_receivers)

    @override
    def receive_weights(self, version: int, alpha: float) -> None:
        self._receiver.receive(version, alpha)

    @override
    def save(self, iteration: int) -> SavedReference:
        return save_reference(self.save_root, iteration, self.engine.model)

    @override
    def load(self, folder: str) -> None:
        load_reference(Path(folder), self.engine.model)

    @property
    def _receiver(self) -> MixedWeights:
        assert self.own_weights is not None, "only a reference on processes of its own receives weights"
        return self.own_weights
