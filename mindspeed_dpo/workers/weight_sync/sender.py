"""The actor's side of weight transfer to a rollout, or a reference that follows, on devices of its own."""

from __future__ import annotations

import torch.distributed as dist
from megatron.core import parallel_state

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.lora import merged_parameters
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.rendezvous_store import host_store
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.parallel.weight_transfer_group import WeightGroup, join_weight_group
from mindspeed_dpo.weights.resharding import Sender, Shards, digests, transfer
from mindspeed_dpo.workers.setup.model_builder import placement_of
from mindspeed_dpo.workers.setup.worker_context import WorkerContext


class WeightSender:
    """Sends the weights of one training process, where that is its part.

    The first copy of the weights is sent: the first rank of each stage is in the weight group, the other tensor- and
    expert-parallel ranks of that copy gather their shards to it.
    """

    def __init__(self, context: WorkerContext, role: RoleConfig, engine: TrainingEngine, name: str = "link") -> None:
        """Send the weights of an engine; `join_group` comes before the first transfer.

        Args:
            context: Context of the actor's process.
            role: Settings of the actor.
            engine: Holds the weights.
            name: Name of its weight group.
        """
        self._context = context
        self._name = name
        self._role = role
        self._engine = engine
        self._store: dist.Store | None = None
        self._link: WeightGroup | None = None
        self._has_group = False

    def host_group(self, host: str) -> str | None:
        """Open the store of a weight group on rank 0 and return its address; None on the other ranks."""
        if dist.get_rank():
            return None
        hosted = host_store(host=host)
        self._store = hosted.store
        return hosted.address

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the weight group, if this process sends; returns once all have joined.

        Args:
            address: What `host_group` returned.
            num_senders: Pipeline stages of the actor.
            num_receivers: Receiving processes, whose ranks in the group follow.
        """
        place, self._has_group = self._context.place, True
        if place.stage_rank == 0:
            self._link = join_weight_group(
                address,
                place.pp_rank,
                num_senders + num_receivers,
                backend=self._context.accelerator.backend,
                timeout_minutes=self._role.parallel.distributed_timeout_minutes,
                store=self._store,
                name=self._name,
            )

    def send(self, version: int) -> None:
        """Send the weights to the receivers, who must receive the same version at the same time; a collective.

        Does nothing without a group: a rollout is then in these processes and takes the weights itself.

        Raises:
            WeightsError: The rollout expects something else; it raises the same, and no weight has moved.
        """
        if not self._has_group:
            return
        # On every replica: an overlapped gather of updated parameters is a collective of all of them.
        with self._engine.parameters_gathered():
            sender = sender_of(self._context, self._role, self._engine, source=self._context.place.pp_rank)
            if sender is not None:
                bucket_bytes = self._role.rollout.publish_bucket_bytes
                transfer(self._link, sender, None, version=version, bucket_bytes=bucket_bytes)

    def digest(self) -> dict[str, int] | None:
        """Return a 64-bit hash of every weight by name, from the output rank of each replica; a collective."""
        place = self._context.place
        with self._engine.parameters_gathered():
            hashes = digests(
                shards_of(self._context, self._role, self._engine),
                parallel_state.get_tensor_model_parallel_group() if place.topology.tp > 1 else None,
                ExpertGroup.current().group,
                parallel_state.get_pipeline_model_parallel_group() if place.topology.pp > 1 else None,
            )
        return hashes if place.is_output else None


def sender_of(context: WorkerContext, role: RoleConfig, engine: TrainingEngine, source: int) -> Sender | None:
    """Return what this training process sends now; None outside the first copy of the weights.

    Adapters are merged into a copy of the weights, so a sender made before an update is stale after it.

    Args:
        context: Context of the actor's process.
        role: Settings of the actor.
        engine: Holds the weights.
        source: Rank in the weight group of the first rank of this stage.
    """
    place = context.place
    if not place.holds_first_copy and not place.holds_first_experts:
        return None
    return Sender(
        shards_of(context, role, engine),
        _group_of_first_copy(place.topology),
        source,
        sends_experts=place.holds_first_experts,
        sends_others=place.holds_first_copy,
    )


def _group_of_first_copy(topology: Topology) -> dist.ProcessGroup | None:
    """Return the larger of the first tensor- and the first expert-parallel group of a stage: both start at its rank 0.

    None for a single rank. Only for processes in that group.
    """
    if topology.ep > topology.tp:
        return ExpertGroup.current().group
    return parallel_state.get_tensor_model_parallel_group() if topology.tp > 1 else None


def shards_of(context: WorkerContext, role: RoleConfig, engine: TrainingEngine) -> Shards:
    """Return the current weights of this training process, adapters merged."""
    return Shards(role.model, merged_parameters(engine.model), placement_of(role, context.place))
