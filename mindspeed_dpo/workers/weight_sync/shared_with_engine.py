"""The rollout's weights where vLLM generates: received like others, handed to its process in shared memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch.distributed as dist

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from mindspeed_dpo.parallel.weight_transfer_group import world_weight_group
from mindspeed_dpo.vllm_engine.shared_weights import SharedWeights
from mindspeed_dpo.weights.resharding import Region, Sender, transfer
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.weight_sync.sender import sender_of
from mindspeed_dpo.workers.weight_sync.weight_link import WeightLink


class IgnoredWeights(SharedWeights):
    """Weights of a process without an engine, which takes part in transfers and keeps nothing."""

    def regions(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """Return no region."""
        return iter(())

    def finish(self) -> None:
        """Do not check what was not kept."""


class EngineWeights:
    """Receives the actor's weights for the engines of vLLM, one for each replica.

    Attributes:
        place: Ranks of the process in the rollout's layout.
        shared: The weights as the engine of this process reads them.
    """

    def __init__(self, context: WorkerContext, role: RoleConfig, actor: ActorWorker | None) -> None:
        """Allocate the shared memory.

        Args:
            context: Context of this process.
            role: Settings of the rollout.
            actor: The actor in this process, if there is one.
        """
        self._context, self._role, self._actor = context, role, actor
        self.place = _place(context, role, actor)
        kind = SharedWeights if self.place.is_output else IgnoredWeights
        self.shared = kind(role.model, role.precision.dtype, context.device)
        self._link = WeightLink(context, role, "rollout")

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the weight group with a rank after those of the senders.

        Raises:
            RuntimeError: The actor is in this process.
        """
        if self._actor is not None:
            raise RuntimeError("a rollout in the actor's processes needs no weight group")
        self._link.join(address, num_senders, num_receivers)

    def receive(self, version: int) -> None:
        """Receive the weights that the actor sends; a collective with it.

        Raises:
            RuntimeError: `join_group` was not called.
            WeightsError: The actor sends something else, or not all weights.
        """
        self.shared.begin()
        bucket_bytes = self._role.rollout.publish_bucket_bytes
        if self._actor is None:
            transfer(self._link.group, None, self.shared, version=version, bucket_bytes=bucket_bytes)
        else:
            with self._actor.engine.parameters_gathered():
                sender = self._sender(self._actor)
                transfer(world_weight_group(), sender, self.shared, version=version, bucket_bytes=bucket_bytes)
        self.shared.finish()

    def _sender(self, actor: ActorWorker) -> Sender | None:
        trained = actor.context.place
        source = trained.pp_rank * (trained.topology.world_size // trained.topology.pp)
        return sender_of(actor.context, actor.role, actor.engine, source)


def _place(context: WorkerContext, role: RoleConfig, actor: ActorWorker | None) -> ParallelRank:
    """Return the ranks of this process in the rollout's layout, of replicas side by side in the actor's processes."""
    if actor is None:
        return context.place
    world_size, tp = actor.context.place.topology.world_size, role.parallel.tensor_model_parallel_size
    return Topology.of(world_size, tp, 1).place(dist.get_rank())
