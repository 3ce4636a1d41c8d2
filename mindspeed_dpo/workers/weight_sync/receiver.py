"""Where a rollout's weights come from: devices of its own, the training weights themselves, or a copy beside them."""

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
from mindspeed_dpo.parallel.link import Link, join_link, world_link
from mindspeed_dpo.parallel.tensor_group import TensorGroup
from mindspeed_dpo.parallel.topology import Place, Topology
from mindspeed_dpo.weights import Placement, WeightsError
from mindspeed_dpo.weights.resharding import Shards, empty_tensors, transfer
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.setup.builders import Seat
from mindspeed_dpo.workers.setup.sources import open_initial_weights
from mindspeed_dpo.workers.weight_sync.sender import sender_of


class RolloutWeights(Protocol):
    """The weights of one rollout process.

    Attributes:
        tensors: All layers, this tensor-parallel rank's shards, by Megatron's names; they are changed in place.
        place: Where the process stands among the rollout's; one pipeline stage.
        tp: The tensor-parallel ranks.
        is_filled: Whether the tensors hold weights before anything was received.
    """

    tensors: Mapping[str, Tensor]
    place: Place
    tp: TensorGroup
    is_filled: bool

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """See `Publishing.open_link`."""

    def receive(self, version: int) -> None:
        """Have the actor's weights of this version."""

    def whole(self) -> AbstractContextManager[None]:
        """While this is held the tensors are what the actor's last update made them."""


def rollout_weights(seat: Seat, role: RoleConfig, actor: ActorWorker | None) -> RolloutWeights:
    """The weights of a rollout process: on its own devices, or in the process of an actor.

    Training weights are used in place where they lie as the rollout needs them: one stage, same tensor-parallel size.
    """
    if actor is None:
        return OwnWeights(seat, role)
    trained = actor.seat.place.topology
    if trained.pp == 1 and trained.tp == role.parallel.tensor_model_parallel_size:
        return TrainingWeights(actor)
    return CopiedWeights(role, actor)


class OwnWeights:
    """Weights on devices of the rollout's own, read from `load` once and then received over a link."""

    def __init__(self, seat: Seat, role: RoleConfig) -> None:
        self.place = seat.place
        self.tp = _megatron_group(seat.place)
        self._seat = seat
        self._role = role
        self._link: Link | None = None
        self.tensors: Mapping[str, Tensor]
        self.tensors, self._shards = _empty(role, seat.place, seat.device)
        self.is_filled = _read(role, seat.place, self.tensors)

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """Join the link behind the publishers."""
        self._link = join_link(
            address,
            publishers + dist.get_rank(),
            publishers + receivers,
            backend=self._seat.accelerator.backend,
            timeout_minutes=self._role.parallel.distributed_timeout_minutes,
        )

    def receive(self, version: int) -> None:
        """Take what the actor publishes; a collective with it.

        Raises:
            RuntimeError: There is no link yet.
            WeightsError: The actor publishes something else; it raises the same, and no weight has moved.
        """
        if self._link is None:
            raise RuntimeError("the rollout has no link to the actor; call open_link on both first")
        bucket_bytes = self._role.rollout.publish_bucket_bytes
        transfer(self._link, None, self._shards, version=version, bucket_bytes=bucket_bytes)

    def whole(self) -> AbstractContextManager[None]:
        """They always are."""
        return nullcontext()


class TrainingWeights:
    """The training weights themselves: nothing is copied, and nothing has to travel.

    Only matrices with an adapter are a copy, into which it is merged for each version.
    """

    is_filled = True

    def __init__(self, actor: ActorWorker) -> None:
        self._engine = actor.engine
        trained = actor.seat.place.topology
        # Context-parallel ranks hold copies of the weights, so each answers as a replica.
        self.place = Topology.of(trained.world_size, trained.tp, 1).place(dist.get_rank())
        self.tp = _megatron_group(self.place)
        self.tensors: Mapping[str, Tensor] = merged_parameters(actor.engine.model)

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """Refused.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a rollout in the actor's processes needs no link")

    def receive(self, version: int) -> None:
        """They are there already; adapters are merged."""
        with self.whole():
            merged_parameters(self._engine.model, into=self.tensors)

    def whole(self) -> AbstractContextManager[None]:
        """With an overlapped parameter gather they are whole only on request."""
        return self._engine.parameters_gathered()


class CopiedWeights:
    """A copy in the actor's processes under a layout of its own, filled over their own process group."""

    is_filled = True

    def __init__(self, role: RoleConfig, actor: ActorWorker) -> None:
        """Make the groups and fill the copy; a collective of all of the actor's processes."""
        seat, trained = actor.seat, actor.seat.place
        tp = role.parallel.tensor_model_parallel_size
        self.place = Topology.of(trained.topology.world_size, tp, 1).place(dist.get_rank())
        self.tp = _new_groups(self.place.topology)
        self.tensors: Mapping[str, Tensor]
        self.tensors, self._shards = _empty(role, self.place, seat.device)
        self._engine, self._bucket_bytes = actor.engine, role.rollout.publish_bucket_bytes
        self._seat, self._trained_role = seat, actor.role
        self._source = trained.pp_rank * (trained.topology.world_size // trained.topology.pp)
        self._link = world_link()
        self.receive(0)

    def open_link(self, address: str, publishers: int, receivers: int) -> None:
        """Refused.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a rollout in the actor's processes needs no link")

    def receive(self, version: int) -> None:
        """Copy the training weights; a collective of all of the actor's processes."""
        with self._engine.parameters_gathered():
            sender = sender_of(self._seat, self._trained_role, self._engine, self._source)
            transfer(self._link, sender, self._shards, version=version, bucket_bytes=self._bucket_bytes)

    def whole(self) -> AbstractContextManager[None]:
        """They always are."""
        return nullcontext()


def reference_weights(role: RoleConfig, place: Place, device: torch.device) -> dict[str, Tensor]:
    """The weights of the role `ref` at a place of the rollout, read from its `load`.

    Raises:
        WeightsError: They are not whole, or the role starts at random, so that another reading would differ.
    """
    tensors, _ = _empty(role, place, device)
    whole = replace(role, checkpoint=replace(role.checkpoint, load_checkpoint_loosely=False))
    if not _read(whole, place, tensors):
        raise WeightsError("the reference starts at random, so it cannot be read a second time to answer prompts")
    return tensors


def placement(role: RoleConfig, place: Place) -> Placement:
    """All layers, on this tensor-parallel rank."""
    return Placement.even(role.model.num_layers, tp_rank=place.tp_rank, tp_size=place.topology.tp)


def _empty(role: RoleConfig, place: Place, device: torch.device) -> tuple[dict[str, Tensor], Shards]:
    dtype = getattr(torch, role.precision.dtype)
    tensors = empty_tensors(role.model, placement(role, place), dtype, device)
    return tensors, Shards(role.model, tensors, placement(role, place))


def _read(role: RoleConfig, place: Place, tensors: Mapping[str, Tensor]) -> bool:
    """Fill the tensors from the role's initial weights, if there are any."""
    source = open_initial_weights(role)
    if source is None:
        return False
    for name, tensor in source.local_tensors(role.model, placement(role, place)):
        tensors[name].copy_(tensor)
    return True


def _megatron_group(place: Place) -> TensorGroup:
    """The tensor-parallel ranks of the pool's own layout."""
    tp = place.topology.tp
    return TensorGroup(place.tp_rank, tp, parallel_state.get_tensor_model_parallel_group() if tp > 1 else None)


def _new_groups(topology: Topology) -> TensorGroup:
    """The tensor-parallel ranks of a layout beside the pool's own; every process makes every group."""
    rank, tp = dist.get_rank(), topology.tp
    if tp == 1:
        return TensorGroup()
    groups = [dist.new_group(list(range(start, start + tp))) for start in range(0, topology.world_size, tp)]
    return TensorGroup(rank % tp, tp, groups[rank // tp])
