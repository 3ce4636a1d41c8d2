"""Rules about the division of a model over devices: parallel sizes, virtual stages, pools and shared layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import EXPERT_LAYOUT_KEYS

LAYOUT_KEYS = ("tensor_model_parallel_size", "context_parallel_size", "pipeline_model_parallel_size")
"""Keys of the layout of a role, whose product is the number of devices of a replica."""


def divisors(number: int) -> list[int]:
    """Return all divisors of a number in ascending order."""
    return [size for size in range(1, number + 1) if number % size == 0]


def tensor_parallel_sizes(model: ModelConfig) -> dict[str, int]:
    """Return the sizes of a model by key that every tensor-parallel size must divide."""
    padded = ["padded_vocab_size"] if model.padded_vocab_size is not None else []
    return {key: getattr(model, key) for key in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", *padded)}


def check_split(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that the model divides over the parallel sizes of its role."""
    model, tp, pp = role.model, role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    sizes = tensor_parallel_sizes(model)
    indivisible = [f"{name}={size}" for name, size in sizes.items() if size % tp]
    if indivisible:
        yield Violation(
            ("tensor_model_parallel_size", *sizes, "hidden_size"),
            f"does not divide {join_words(indivisible, 'and')}; "
            f"choose {join_words(divisors(math.gcd(*sizes.values())))}",
        )
    if model.num_layers % pp:
        yield Violation(
            ("pipeline_model_parallel_size", "num_layers"),
            f"does not divide num_layers={model.num_layers}; choose {join_words(divisors(model.num_layers))}",
        )
    else:
        yield from _check_virtual_stages(role)
    yield from _check_context(role)
    if role.parallel.overlap_param_gather and not role.parallel.use_distributed_optimizer:
        yield Violation(
            ("overlap_param_gather", "use_distributed_optimizer"),
            "has no effect without use_distributed_optimizer: true",
        )


def _check_virtual_stages(role: RoleConfig) -> Iterator[Violation]:
    """Check that the layers of a pipeline device divide into several virtual stages of equal depth."""
    key, pp = "num_layers_per_virtual_pipeline_stage", role.parallel.pipeline_model_parallel_size
    per_stage, per_device = role.parallel.num_layers_per_virtual_pipeline_stage, role.model.num_layers // pp
    if per_stage is None:
        return
    if pp == 1:
        yield Violation((key, "pipeline_model_parallel_size"), "requires a pipeline_model_parallel_size of 2 or more")
    elif per_device == 1:
        yield Violation(
            (key, "num_layers", "pipeline_model_parallel_size"),
            "cannot divide a device's only layer into several stages; remove it",
        )
    elif per_stage >= per_device or per_device % per_stage:
        yield Violation(
            (key, "num_layers", "pipeline_model_parallel_size"),
            f"does not divide the {per_device} layers of a device (num_layers={role.model.num_layers} / "
            f"pipeline_model_parallel_size={pp}) into several equal stages; "
            f"choose {join_words(divisors(per_device)[:-1])}",
        )


def _check_context(role: RoleConfig) -> Iterator[Violation]:
    """Check that the attention heads of a tensor-parallel device divide over the context-parallel devices."""
    parallel, heads = role.parallel, role.model.num_attention_heads
    cp, tp = parallel.context_parallel_size, parallel.tensor_model_parallel_size
    if heads % tp == 0 and heads // tp % cp:
        yield Violation(
            ("context_parallel_size", "num_attention_heads", "tensor_model_parallel_size"),
            f"does not divide the {heads // tp} attention heads of a device (num_attention_heads={heads} / "
            f"tensor_model_parallel_size={tp}); choose {join_words(divisors(heads // tp))}",
        )


def check_pool(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that a pool holds complete replicas of the role whose layout it has."""
    total, replica, pool = run.num_processes(role.name), role.replica_size, run.pool_of(role.name)
    if total % replica == 0:
        return
    choices = f"choose {join_words(replica * count for count in (1, 2, 4))}"
    product = "tensor x context x pipeline" if role.parallel.context_parallel_size > 1 else "tensor x pipeline"
    if role.name == "actor" and "rollout" in run.pools:
        yield Violation(("num_gpus_for_train", *LAYOUT_KEYS), f"is not a multiple of {product} = {replica}; {choices}")
    else:
        yield Violation(
            (pool, *LAYOUT_KEYS),
            f"has {total} processes, which is not a multiple of {product} = {replica}; {choices} in total",
        )


def check_shared_layout(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that a role without processes of its own has the layout of the pool that it shares.

    The ranks that share the experts of another model are plain data-parallel ranks of a dense one.
    """
    other = run.layout_role(run.pool_of(role.name))
    for key in (*LAYOUT_KEYS, *(EXPERT_LAYOUT_KEYS if role.model.has_experts else ())):
        own, shared = getattr(role.parallel, key), getattr(other.parallel, key)
        if own != shared:
            yield Violation(
                (key,),
                f"differs from {shared} of the {other.name}, whose devices it shares; give {role.name} a resource_pool",
            )
