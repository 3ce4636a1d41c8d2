"""What the tests of the policy model let a pool of processes do: build stages and describe them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.data.batching.packing_and_label_shift import pack
from mindspeed_dpo.models.layer_spec import Execution
from mindspeed_dpo.models.policy import PolicyModel
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.random_seeds import seed_generators
from mindspeed_dpo.parallel.topology import ParallelRank, Topology
from tests.support.jobs import logits_shard
from tests.support.processes import leave_layout

MODEL = ModelConfig(
    num_layers=2,
    hidden_size=16,
    num_attention_heads=4,
    num_query_groups=2,
    ffn_hidden_size=24,
    vocab_size=21,
    make_vocab_size_divisible_by=4,
    max_position_embeddings=64,
    untie_embeddings_and_output_weights=True,
    add_qkv_bias=True,
    qk_layernorm=True,
    init_method_std=0.3,
)
TIED = replace(MODEL, untie_embeddings_and_output_weights=False)
BATCH = PreferenceBatch.from_lists([[5, 1, 2], [7, 20]], [[[3], [4, 9, 6]], [[8, 1], [2, 0]]])


@dataclass(frozen=True)
class Described:
    """One parameter of one stage."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    split_along: int | None
    sums_over_tensor_ranks: bool


def build(
    model: ModelConfig, tp: int, pp: int, *, seed: int = 3, statistics: bool = False, **execution: object
) -> tuple[PolicyModel, ParallelRank]:
    """This process's stage with random weights."""
    leave_layout()
    topology = Topology.of(dist.get_world_size(), tp, pp)
    process_groups.split(topology)
    seed_generators(seed)
    settings = Execution(topology, **{"random_init": True, **execution})  # type: ignore[arg-type]
    return PolicyModel(model, settings, statistics=statistics), topology.place(dist.get_rank())


def describe(model: ModelConfig, tp: int, pp: int, random_init: bool, sequence_parallel: bool) -> dict[str, Described]:
    """Every parameter by name."""
    policy, _ = build(model, tp, pp, random_init=random_init, sequence_parallel=sequence_parallel)
    return {
        name: Described(
            shape=tuple(parameter.shape),
            dtype=parameter.dtype,
            split_along=parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None,
            sums_over_tensor_ranks=bool(getattr(parameter, "sequence_parallel", False)),
        )
        for name, parameter in policy.named_parameters()
    }


def parameters(model: ModelConfig, seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """The random weights of one seed."""
    policy, _ = build(model, 1, 1, seed=seed, dtype=dtype)
    return {name: parameter.detach() for name, parameter in policy.named_parameters()}


def frequencies_after_casting(dtype: torch.dtype) -> tuple[Tensor, torch.dtype]:
    """The rotary frequencies of a model that was cast, and the dtype of its parameters."""
    policy, _ = build(MODEL, 1, 1, dtype=dtype)
    policy = policy.to(dtype)
    return policy.frequencies, next(policy.parameters()).dtype


def score(model: ModelConfig, statistics: bool) -> Tensor:
    """The head's columns for the batch."""
    policy, _ = build(model, 1, 1, statistics=statistics)
    return policy(pack(BATCH)).detach()


def logits(model: ModelConfig, tp: int) -> Tensor:
    """This rank's share of the logits of every row."""
    policy, _ = build(model, tp, 1)
    return logits_shard(policy, pack(BATCH))


def received(as_list: bool) -> bool:
    """Whether what the schedule hands over reaches the decoder, bare or in a list."""
    policy, _ = build(MODEL, 1, 1)
    hidden = torch.ones(3, 1, 16)
    policy.set_input_tensor([hidden] if as_list else hidden)
    return policy.decoder.input_tensor is hidden
