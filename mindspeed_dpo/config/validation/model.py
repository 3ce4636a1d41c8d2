"""What must hold for the model of one role and the processes it is laid over."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.legacy.aliases import listing
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.parallel import ULYSSES
from mindspeed_dpo.config.validation.violation import Violation

_NEEDED_BY_ROPE: dict[str | None, tuple[str, ...]] = {
    "llama3": ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("original_max_position_embeddings",),
}
LAYOUT = ("tensor_model_parallel_size", "context_parallel_size", "pipeline_model_parallel_size")
"""Keys of a role's layout."""


def divisors(number: int) -> list[int]:
    """The numbers that divide it, smallest first."""
    return [size for size in range(1, number + 1) if number % size == 0]


def check_model(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """The architecture fits together and to the length of sequences."""
    model = role.model
    heads, groups = model.num_attention_heads, model.num_query_groups
    if not model.vocab_size:
        yield Violation(("vocab_size", "padded_vocab_size", "model"), "must be given: the number of token ids")
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
            f"does not divide num_attention_heads={heads}; choose {listing(divisors(heads))}",
        )
    missing = [key for key in _NEEDED_BY_ROPE.get(model.rope_scaling_type, ()) if getattr(model, key) is None]
    if missing:
        yield Violation(("rope_scaling_type", *missing), f"needs {listing(missing, 'and')} as well")
    if role.data.seq_length > model.max_position_embeddings:
        whose = "the model" if role.name == "actor" else f"the model of {role.name}"
        yield Violation(
            ("seq_length", "max_position_embeddings"),
            f"is more than max_position_embeddings={model.max_position_embeddings} of {whose}",
        )


def split_sizes(model: ModelConfig) -> dict[str, int]:
    """The sizes that every tensor-parallel size must divide."""
    padded = ["padded_vocab_size"] if model.padded_vocab_size is not None else []
    return {key: getattr(model, key) for key in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", *padded)}


def check_split(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """The model divides over the parallel sizes of its role."""
    model, tp, pp = role.model, role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    sizes = split_sizes(model)
    uneven = [f"{name}={size}" for name, size in sizes.items() if size % tp]
    if uneven:
        yield Violation(
            ("tensor_model_parallel_size", *sizes, "hidden_size"),
            f"does not divide {listing(uneven, 'and')}; choose {listing(divisors(math.gcd(*sizes.values())))}",
        )
    if model.num_layers % pp:
        yield Violation(
            ("pipeline_model_parallel_size", "num_layers"),
            f"does not divide num_layers={model.num_layers}; choose {listing(divisors(model.num_layers))}",
        )
    else:
        yield from _check_virtual(role)
    yield from _check_context(role)
    if role.parallel.overlap_param_gather and not role.parallel.use_distributed_optimizer:
        yield Violation(
            ("overlap_param_gather", "use_distributed_optimizer"),
            "has no effect without use_distributed_optimizer: true",
        )


def _check_virtual(role: RoleConfig) -> Iterator[Violation]:
    """A pipeline device has several virtual stages of equal depth."""
    asked, pp = role.parallel.num_layers_per_virtual_pipeline_stage, role.parallel.pipeline_model_parallel_size
    key, layers = "num_layers_per_virtual_pipeline_stage", role.model.num_layers // pp
    if asked is None:
        return
    if pp == 1:
        yield Violation((key, "pipeline_model_parallel_size"), "needs a pipeline_model_parallel_size of 2 or more")
    elif layers == 1:
        yield Violation(
            (key, "num_layers", "pipeline_model_parallel_size"), "splits the only layer of a device; remove it"
        )
    elif asked >= layers or layers % asked:
        yield Violation(
            (key, "num_layers", "pipeline_model_parallel_size"),
            f"does not split the {layers} layers of a device (num_layers={role.model.num_layers} / "
            f"pipeline_model_parallel_size={pp}) into several equal parts; choose {listing(divisors(layers)[:-1])}",
        )


def _check_context(role: RoleConfig) -> Iterator[Violation]:
    """Attention's heads divide over the context-parallel devices, on top of the tensor-parallel ones."""
    parallel, heads = role.parallel, role.model.num_attention_heads
    cp, tp = parallel.context_parallel_size, parallel.tensor_model_parallel_size
    if cp == 1:
        return
    if heads % tp == 0 and heads // tp % cp:
        yield Violation(
            ("context_parallel_size", "num_attention_heads", "tensor_model_parallel_size"),
            f"does not divide the {heads // tp} attention heads of a device (num_attention_heads={heads} / "
            f"tensor_model_parallel_size={tp}); choose {listing(divisors(heads // tp))}",
        )
    if parallel.context_parallel_algo != ULYSSES:
        yield Violation(
            ("context_parallel_algo", "context_parallel_size"),
            f"is not implemented: rows hold many segments that share prompts, which only {ULYSSES} leaves whole; "
            "choose that",
        )


def check_pool(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """The pool that a role leads holds whole replicas."""
    total, replica, pool = run.num_processes(role.name), role.replica_size, run.pool_of(role.name)
    if total % replica:
        good = f"choose {listing(replica * count for count in (1, 2, 4))}"
        product = "tensor x context x pipeline" if role.parallel.context_parallel_size > 1 else "tensor x pipeline"
        if role.name == "actor" and "rollout" in run.pools:
            yield Violation(("num_gpus_for_train", *LAYOUT), f"is no multiple of {product} = {replica}; {good}")
            return
        yield Violation(
            (pool, *LAYOUT),
            f"holds {total} processes, which is no multiple of {product} = {replica}; {good} in all",
        )


def check_sharing(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """A role without processes of its own has the layout of those it shares."""
    leader = run.layout_role(run.pool_of(role.name))
    for key in LAYOUT:
        own, theirs = getattr(role.parallel, key), getattr(leader.parallel, key)
        if own != theirs:
            yield Violation(
                (key,),
                f"differs from {theirs} of the {leader.name}, whose devices it shares; give {role.name} a "
                "resource_pool",
            )
