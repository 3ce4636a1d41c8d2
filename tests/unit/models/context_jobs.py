"""What the tests of context parallelism let a pool of processes do: score and differentiate a batch, rows split."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.context_parallel import ContextGroup
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import Topology
from tests.support.jobs import rows_multiple
from tests.support.processes import leave_layout


def columns_and_gradient(
    model: ModelConfig, batch: PreferenceBatch, cp: int, share_prompt: bool, sequence_parallel: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """The head's columns with statistics, and the gradient of a weighted sum of log-probabilities over all ranks.

    Processes beyond `cp` are tensor ranks, whose parameters are parts.
    """
    leave_layout()
    topology = Topology.of(dist.get_world_size(), dist.get_world_size() // cp, 1, cp)
    process_groups.split(topology)
    seed_generators(3)
    execution = Execution(topology, sequence_parallel=sequence_parallel, random_init=True)
    policy = PolicyModel(model, execution, statistics=True)
    place = topology.place(dist.get_rank())
    packed = pack(batch, share_prompt=share_prompt, multiple_of=rows_multiple(topology, sequence_parallel))
    columns = policy(packed.for_context_rank(place.cp_rank, cp))
    weights = torch.linspace(-1, 2, len(packed.labels))
    (columns[:, 0] * weights).sum().backward()
    gradient = {name: parameter.grad for name, parameter in policy.named_parameters()}
    if policy.context is not None:
        gradient = {name: policy.context.sum(part) for name, part in gradient.items()}
    return columns.detach(), gradient


def exchanged(query: Tensor, key: Tensor, value: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """What a rank attends with, given its rows of everything, and its rows again after the way back."""
    leave_layout()
    size, rank = dist.get_world_size(), dist.get_rank()
    process_groups.split(Topology(cp=size))
    context = ContextGroup.of(size)
    assert context is not None
    heads = context.to_heads(*(complete.chunk(size)[rank] for complete in (query, key, value)))
    return heads, context.to_rows(heads[0])
