"""Jobs of two process pools in the tests of resharding: one trains and sends weights, the other receives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.engine.weight_loading import load_into
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.rendezvous_store import host_store
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from mindspeed_dpo.parallel.weight_transfer_group import WeightGroup, join_weight_group, world_weight_group
from mindspeed_dpo.weights import ParallelLayout, Placement, WeightsError, open_weights
from mindspeed_dpo.weights.resharding import Sender, Shards, empty_tensors, transfer
from tests.support.processes import leave_layout

_store: list[dist.Store] = []


@dataclass(frozen=True)
class Side:
    """One side of a transfer.

    Attributes:
        before: Weights to start from; also the model.
        after: Weights that training arrives at; what the rollout should have in the end.
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        version: Of the weights.
        bucket_bytes: Bound.
        dtype: Of the tensors.
        without: A tensor that is left out.
    """

    before: Path
    after: Path
    tp: int = 1
    pp: int = 1
    version: int = 1
    bucket_bytes: int = 4096
    dtype: torch.dtype = torch.float32
    without: str | None = None


@dataclass
class Outcome:
    """What a process saw.

    Attributes:
        problem: The error, or nothing.
        differing: Tensors that are not those of `after`, or that moved to other memory.
        received: Bytes of each broadcast.
    """

    problem: str = ""
    differing: list[str] = field(default_factory=list)
    received: list[int] = field(default_factory=list)


def host() -> str | None:
    """The address of a new link, from rank 0."""
    if dist.get_rank():
        return None
    hosted = host_store()
    _store[:] = [hosted.store]
    return hosted.address


def publish(address: str, side: Side, receivers: int) -> Outcome:
    """Train under a layout, and publish over a link."""
    place, sender = _train(side, lambda place: place.pp_rank)
    link = None
    if place.dp_rank == 0 and place.tp_rank == 0:
        store = _store[0] if dist.get_rank() == 0 else None
        link = _join(address, place.pp_rank, side.pp + receivers, store)
    return _transfer(link, sender if place.dp_rank == 0 else None, None, side)


def receive(address: str, side: Side, publishers: int) -> Outcome:
    """Receive what is published, as tensor-parallel ranks or as replicas."""
    tensors, placement, model = _rollout(side)
    link = _join(address, publishers + dist.get_rank(), publishers + dist.get_world_size(), None)
    shards = Shards(model, {name: t for name, t in tensors.items() if name != side.without}, placement)
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    outcome = _transfer(link, None, shards, side)
    outcome.differing = _differing(side, tensors, placement, model, places)
    return outcome


def copy_within(trained: Side, sampled: Side) -> Outcome:
    """Both sides in the same processes: their own default group is the link."""
    place, sender = _train(trained, lambda place: place.pp_rank * place.topology.tp * place.topology.dp)
    tensors, placement, model = _rollout(sampled)
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    shards = Shards(model, tensors, placement)
    outcome = _transfer(world_weight_group(), sender if place.dp_rank == 0 else None, shards, trained)
    outcome.differing = _differing(sampled, tensors, placement, model, places)
    return outcome


def _train(side: Side, source: Any) -> tuple[ParallelRank, Sender]:
    leave_layout()
    topology = Topology.of(dist.get_world_size(), side.tp, side.pp)
    process_groups.split(topology)
    seed_generators(1)
    place = topology.place(dist.get_rank())
    config = open_weights(side.before).model_config()
    model = PolicyModel(config, Execution(topology, dtype=side.dtype))
    placement = ParallelLayout(tp=side.tp, pp=side.pp).placement(config.num_layers, place.tp_rank, place.pp_rank)
    for folder in (side.before, side.after):
        assert not load_into(model, open_weights(folder).local_tensors(config, placement), str(folder))
    _spoil_padding(model, config, place)
    tensors = {name: tensor for name, tensor in model.named_parameters() if name != side.without}
    group = parallel_state.get_tensor_model_parallel_group() if side.tp > 1 else None
    return place, Sender(Shards(config, tensors, placement), group, source(place))


def _spoil_padding(model: PolicyModel, config: ModelConfig, place: ParallelRank) -> None:
    """Put NaN where no token is: none of it may arrive."""
    share = config.padded_vocab(place.topology.tp) // place.topology.tp
    true = max(0, min(share, config.vocab_size - share * place.tp_rank))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("embedding.word_embeddings.weight", "output_layer.weight"):
                parameter[true:] = torch.nan


def _rollout(side: Side) -> tuple[dict[str, Tensor], Placement, ModelConfig]:
    source = open_weights(side.before)
    model = source.model_config()
    placement = ParallelLayout(tp=side.tp).placement(model.num_layers, dist.get_rank() % side.tp, 0)
    tensors = empty_tensors(model, placement, side.dtype, torch.device("cpu"))
    for name, tensor in source.local_tensors(model, placement):
        tensors[name].copy_(tensor)
    return tensors, placement, model


def _differing(
    side: Side, tensors: dict[str, Tensor], placement: Placement, model: ModelConfig, places: dict[str, int]
) -> list[str]:
    expected = dict(open_weights(side.after).local_tensors(model, placement))
    assert expected.keys() == tensors.keys()
    return [
        name
        for name, tensor in tensors.items()
        if not torch.equal(tensor, expected[name].to(side.dtype)) or tensor.data_ptr() != places[name]
    ]


def _join(address: str, rank: int, size: int, store: dist.Store | None) -> WeightGroup:
    return join_weight_group(address, rank, size, backend="gloo", timeout_minutes=1, store=store)


def _transfer(link: WeightGroup | None, sender: Sender | None, receiver: Shards | None, side: Side) -> Outcome:
    outcome = Outcome()
    if link is not None:
        broadcast = link.broadcast

        def counted(tensor: Tensor, root: int) -> None:
            outcome.received.append(tensor.nbytes)
            broadcast(tensor, root)

        link.broadcast = counted
    try:
        if sender is not None or receiver is not None:
            transfer(link, sender, receiver, version=side.version, bucket_bytes=side.bucket_bytes)
    except WeightsError as error:
        outcome.problem = str(error)
    if link is not None:
        link.close()
    return outcome
