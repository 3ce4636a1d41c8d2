"""Rules about the model of one role and the processes that it is distributed over."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.parallel import EXPERT_LAYOUT_KEYS

_REQUIRED_BY_ROPE_SCALING: dict[str | None, tuple[str, ...]] = {
    "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("original_max_position_embeddings",),
}
LAYOUT_KEYS = ("tensor_model_parallel_size", "context_parallel_size", "pipeline_model_parallel_size")
"""Keys of the layout of a role, whose product is the number of devices of a replica."""
NPU_MAX_HEAD_WIDTH = 768
"""Largest head width that attention of torch_npu 2.13.0 accepts; the width must also be even."""
NPU_MAX_HEADS = 256
"""Largest number of attention heads per device that torch_npu 2.13.0 accepts."""


def divisors(number: int) -> list[int]:
    """Return all divisors of a number in ascending order."""
    return [size for size in range(1, number + 1) if number % size == 0]


def check_model(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that the sizes of a model are consistent, and that it supports the length of sequences."""
    model = role.model
    heads, groups = model.num_attention_heads, model.num_query_groups
    if not model.vocab_size:
        yield Violation(("vocab_size", "padded_vocab_size", "model"), "must be set to the number of token ids")
    elif model.padded_vocab_size is not None and model.padded_vocab_size < model.vocab_size:
        yield Violation(("padded_vocab_size", "vocab_size"), f"is less than vocab_size={model.vocab_size}")
    if model.hidden_size % heads and model.kv_channels == model.hidden_size // heads:
        yield Violation(
            ("num_attention_heads", "hidden_size", "kv_channels"),
            f"does not divide hidden_size={model.hidden_size}; set kv_channels, the width of a head",
        )
    if heads % groups:
        yield Violation(
            ("num_query_groups", "num_attention_heads"),
            f"does not divide num_attention_heads={heads}; choose {join_words(divisors(heads))}",
        )
    required = _REQUIRED_BY_ROPE_SCALING.get(model.rope_scaling_type, ())
    missing = [key for key in required if getattr(model, key) is None]
    if missing:
        yield Violation(("rope_scaling_type", *missing), f"also requires {join_words(missing, 'and')}")
    if role.data.seq_length > model.max_position_embeddings:
        owner = "the model" if role.name == "actor" else f"the model of {role.name}"
        yield Violation(
            ("seq_length", "max_position_embeddings"),
            f"is more than max_position_embeddings={model.max_position_embeddings} of {owner}",
        )


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


def check_npu_limits(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that, with `device=npu`, head width and heads per device are within the limits of torch_npu.

    `device.ops.limits` checks each call against the same limits, which also covers runs with `device=auto`.
    """
    if run.loop.device != "npu":
        return
    width, heads = role.model.kv_channels, role.model.num_attention_heads
    # Context-parallel devices share the heads during attention.
    per_device = heads // (role.parallel.tensor_model_parallel_size * role.parallel.context_parallel_size)
    if width > NPU_MAX_HEAD_WIDTH or width % 2:
        yield Violation(
            ("kv_channels", "hidden_size", "num_attention_heads", "device"),
            f"is not supported with device=npu: the width of a head must be even and at most {NPU_MAX_HEAD_WIDTH}; "
            "use another model",
        )
    if per_device > NPU_MAX_HEADS:
        yield Violation(
            ("tensor_model_parallel_size", "num_attention_heads", "device"),
            f"gives each device {per_device} attention heads; device=npu supports at most {NPU_MAX_HEADS}; raise it",
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
