"""The rollout's weights: on devices of its own, the training weights themselves, or a resharded copy beside them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.models.lora import merged_parameters
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.parallel.tensor_parallel import TensorGroup
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from mindspeed_dpo.parallel.weight_transfer_group import world_weight_group
from mindspeed_dpo.weights import ParallelLayout, Placement, WeightsError
from mindspeed_dpo.weights.resharding import Shards, empty_tensors, transfer
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.weight_sync.sender import sender_of
from mindspeed_dpo.workers.weight_sync.weight_link import WeightLink


class RolloutWeights(Protocol):
    """The weights of one rollout process.

    Attributes:
        tensors: This process's shards and experts of all layers, by Megatron's names; updated in place.
        place: Ranks of the process in the rollout's layout, which has one pipeline stage.
        tp: The tensor-parallel group.
        experts: The processes that share the experts.
        is_filled: Whether the tensors hold weights before the first transfer.
    """

    tensors: Mapping[str, Tensor]
    place: ParallelRank
    tp: TensorGroup
    experts: ExpertGroup
    is_filled: bool

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the weight group; `Actor.join_weight_group` has the arguments."""

    def receive(self, version: int) -> None:
        """Take over the actor's weights of this version."""

    def gathered(self) -> AbstractContextManager[None]:
        """Keep the tensors up to date with the actor's last update while the context is open."""


def rollout_weights(context: WorkerContext, role: RoleConfig, actor: ActorWorker | None) -> RolloutWeights:
    """Return the weights of a rollout process, on devices of its own or in the process of an actor.

    Training weights are used in place if actor and rollout have the same tensor- and expert-parallel sizes and one
    pipeline stage.
    """
    if actor is None:
        return OwnWeights(context, role)
    trained, parallel = actor.context.place.topology, role.parallel
    sizes = (1, parallel.tensor_model_parallel_size, parallel.expert_parallel_size)
    if (trained.pp, trained.tp, trained.ep) == sizes:
        return TrainingWeights(actor)
    return CopiedWeights(role, actor)


class OwnWeights:
    """Weights on devices of the rollout's own, read from `load` once and then received from the weight group."""

    def __init__(self, context: WorkerContext, role: RoleConfig) -> None:
        """Allocate the tensors and read the role's initial weights."""
        self.place = context.place
        self.tp, self.experts = _megatron_group(context.place), ExpertGroup.current()
        self._role = role
        self._link = WeightLink(context, role, "rollout")
        self.tensors: Mapping[str, Tensor]
        self.tensors, self._shards = _empty(role, context.place, context.device)
        self.is_filled = _read(role, context.place, self.tensors)

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Join the weight group with a rank after those of the senders."""
        self._link.join(address, num_senders, num_receivers)

    def receive(self, version: int) -> None:
        """Receive the weights that the actor sends; a collective with it.

        Raises:
            RuntimeError: `join_group` was not called.
            WeightsError: The actor sends something else; it raises the same, and no weight has moved.
        """
        bucket_bytes = self._role.rollout.publish_bucket_bytes
        transfer(self._link.group, None, self._shards, version=version, bucket_bytes=bucket_bytes)

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: these tensors change only in `receive`."""
        return nullcontext()


class TrainingWeights:
    """The training weights themselves, neither copied nor transferred.

    Only matrices with an adapter are a copy, into which the adapter is merged for each version.
    """

    is_filled = True

    def __init__(self, actor: ActorWorker) -> None:
        """Use the weights of the actor in this process."""
        self._engine = actor.engine
        trained = actor.context.place.topology
        # Context-parallel ranks hold copies of the weights, so each is a replica of the rollout.
        self.place = Topology.of(trained.world_size, trained.tp, 1, ep=trained.ep).place(dist.get_rank())
        self.tp, self.experts = _megatron_group(self.place), ExpertGroup.current()
        self.tensors: Mapping[str, Tensor] = merged_parameters(actor.engine.model)

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Refuse to join a weight group.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a rollout in the actor's processes needs no weight group")

    def receive(self, version: int) -> None:
        """Merge adapters; the other weights are in place already."""
        with self.gathered():
            merged_parameters(self._engine.model, into=self.tensors)

    def gathered(self) -> AbstractContextManager[None]:
        """Complete an overlapped parameter gather; until then the tensors hold stale values of other ranks' shards."""
        return self._engine.parameters_gathered()


class CopiedWeights:
    """A copy in the actor's processes under the rollout's layout, filled over their own process group."""

    is_filled = True

    def __init__(self, role: RoleConfig, actor: ActorWorker) -> None:
        """Create the groups and fill the copy; a collective of all of the actor's processes."""
        context, trained = actor.context, actor.context.place
        tp, ep = role.parallel.tensor_model_parallel_size, role.parallel.expert_parallel_size
        self.place = Topology.of(trained.topology.world_size, tp, 1, ep=ep).place(dist.get_rank())
        self.tp, self.experts = TensorGroup(*_new_groups(tp)), ExpertGroup(*_new_groups(ep))
        self.tensors: Mapping[str, Tensor]
        self.tensors, self._shards = _empty(role, self.place, context.device)
        self._engine, self._bucket_bytes = actor.engine, role.rollout.publish_bucket_bytes
        self._context, self._trained_role = context, actor.role
        self._source = trained.pp_rank * (trained.topology.world_size // trained.topology.pp)
        self._link = world_weight_group()
        self.receive(0)

    def join_group(self, address: str, num_senders: int, num_receivers: int) -> None:
        """Refuse to join a weight group.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a rollout in the actor's processes needs no weight group")

    def receive(self, version: int) -> None:
        """Copy the training weights; a collective of all of the actor's processes."""
        with self._engine.parameters_gathered():
            sender = sender_of(self._context, self._trained_role, self._engine, self._source)
            transfer(self._link, sender, self._shards, version=version, bucket_bytes=self._bucket_bytes)

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: these tensors change only in `receive`."""
        return nullcontext()


def reference_weights(role: RoleConfig, place: ParallelRank, device: torch.device) -> dict[str, Tensor]:
    """Read the weights of the role `ref` from its `load`, under the rollout's layout.

    Args:
        role: Settings of the reference.
        place: Ranks of the process in the rollout's layout.
        device: Device of the tensors.

    Returns:
        This tensor-parallel rank's shards by Megatron's names: weights of any shape in the role's dtype.

    Raises:
        WeightsError: A weight is missing, or the role is initialised at random, so that two readings would differ.
    """
    tensors, _ = _empty(role, place, device)
    strict = replace(role, checkpoint=replace(role.checkpoint, load_checkpoint_loosely=False))
    if not _read(strict, place, tensors):
        raise WeightsError("the reference is initialised at random, so the rollout cannot load the same weights")
    return tensors


def placement(role: RoleConfig, place: ParallelRank) -> Placement:
    """Return the part of the model that a rollout process holds: all layers, its shards and its experts."""
    layout = ParallelLayout(place.topology.tp, 1, ep=place.topology.ep)
    return layout.placement(role.model.num_layers, place.tp_rank, 0, ep_rank=place.ep_rank)


def _empty(role: RoleConfig, place: ParallelRank, device: torch.device) -> tuple[dict[str, Tensor], Shards]:
    dtype = getattr(torch, role.precision.dtype)
    tensors = empty_tensors(role.model, placement(role, place), dtype, device)
    return tensors, Shards(role.model, tensors, placement(role, place))


def _read(role: RoleConfig, place: ParallelRank, tensors: Mapping[str, Tensor]) -> bool:
    """Fill the tensors from the role's initial weights; return False if it has none."""
    source = open_initial_weights(role)
    if source is None:
        return False
    for name, tensor in source.local_tensors(role.model, placement(role, place)):
        tensors[name].copy_(tensor)
    return True


def _megatron_group(place: ParallelRank) -> TensorGroup:
    """Return the tensor-parallel group of the pool's own layout."""
    tp = place.topology.tp
    return TensorGroup(place.tp_rank, tp, parallel_state.get_tensor_model_parallel_group() if tp > 1 else None)


def _new_groups(size: int) -> tuple[int, int, dist.ProcessGroup | None]:
    """Create groups of `size` consecutive processes, every process every group; return rank, size and group of its."""
    rank = dist.get_rank()
    if size == 1:
        return 0, 1, None
    groups = [dist.new_group(list(range(start, start + size))) for start in range(0, dist.get_world_size(), size)]
    return rank % size, size, groups[rank // size]
