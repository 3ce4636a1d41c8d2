"""What a run is about to do: who sits where, how much a step is, what a device will hold; as rows, or in a few lines.

Memory is an estimate; `sizes` has its formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mindspeed_dpo.config.estimates import memory
from mindspeed_dpo.config.estimates.workload import iteration_workload
from mindspeed_dpo.config.legacy.aliases import listing
from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.online import NASH_MD
from mindspeed_dpo.config.settings.optimization import BatchConfig

MIB = 2**20


def plan_lines(run: RunConfig) -> list[str]:
    """The plan of a run, a line each, for people."""
    first = f"plan: {run.loop.stage}, {run.loop.train_iters} steps"
    return [first, *_seat_lines(run), *workload_lines(run), *_memory_lines(run)]


def _seat_lines(run: RunConfig) -> Iterator[str]:
    for role, pool, nodes, what in role_layouts(run):
        yield f"{role} on {pool} {nodes}: {what}"
    if run.actor.adapters.is_on:
        count = memory.adapter_parameters(run.actor)
        yield f"adapters of {listing(run.actor.adapters.modules, 'and')}: {count:,} parameters learn"


def role_layouts(run: RunConfig) -> Iterator[tuple[str, str, str, str]]:
    """For each role: its name, its pool, the pool's processes per node, its layout or what it does instead."""
    for role in run.roles:
        pool = run.pool_of(role.name)
        yield role.name, pool, format_value(run.pools[pool]), _does(run, role)


def _does(run: RunConfig, role: RoleConfig) -> str:
    if role.name == "reward" and role.reward_source != "model":
        named = role.reward.reward_functions if role.reward_source == "functions" else (role.reward.judge,)
        return f"{role.reward_source} {', '.join(map(str, named))}"
    if role.name == "ref" and run.is_ref_within_actor:
        return f"the actor with its adapters off, {'once before training' if _is_cached(role) else 'at each step'}"
    if _is_cached(role):
        return "computed once before training"
    tp, pp = role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    virtual = f" in {role.num_chunks} virtual stages each" if role.num_chunks > 1 else ""
    cp = f" x CP {role.parallel.context_parallel_size}" if role.parallel.context_parallel_size > 1 else ""
    return f"TP {tp}{cp} x PP {pp}{virtual} x DP {run.data_parallel_size(role.name)}, {_millions(role)}"


def workload_lines(run: RunConfig) -> Iterator[str]:
    """How much a step is."""
    actor, replicas = run.actor, _count(run.data_parallel_size("actor"), "replica")
    batch, micro = actor.batch, _micro_batch(actor.batch)
    if not run.is_online:
        count = "micro-batches"
        if batch.micro_batch_size is not None:
            passes = batch.global_batch_size // (batch.micro_batch_size * run.data_parallel_size("actor"))
            count = _count(passes, "micro-batch", "es")
        yield f"a step: {batch.global_batch_size} pairs, on {replicas} {count} of {micro}"
        yield f"a sequence: at most {actor.data.seq_length} tokens"
        return
    work, rollout = iteration_workload(run), actor.rollout
    mini, steps = _count(work.mini_batch, "pair"), _count(work.optimizer_steps, "optimizer step")
    yield (
        f"a step: {work.prompts} prompts x {rollout.n_samples_per_prompt} = {work.responses} responses, at most "
        f"{_count(work.pairs, 'pair')}"
    )
    yield f"a prompt: at most {rollout.max_prompt_length} tokens; a response: at most {actor.max_new_tokens}"
    ahead = ", an iteration ahead of learning" if rollout.rollout_staleness else ""
    yield (
        f"generating: {_count(run.data_parallel_size('rollout'), 'replica')} x "
        f"{_count(work.prompts_per_replica, 'prompt')}, {work.slots} responses at once{ahead}"
    )
    yield (
        f"learning: {_count(actor.pairing.ppo_epochs, 'pass', 'es')} in mini-batches of {mini}, at most {steps}; "
        f"on {replicas} micro-batches of {micro}"
    )


def _micro_batch(batch: BatchConfig) -> str:
    """What one holds."""
    padded = f", padded to a multiple of {batch.pad_to_multiple_of}" if batch.pad_to_multiple_of > 1 else ""
    if batch.micro_batch_size is not None:
        return _count(batch.micro_batch_size, "pair") + padded
    return f"whole pairs of at most {batch.micro_batch_tokens} tokens together{padded}"


def _memory_lines(run: RunConfig) -> Iterator[str]:
    for pool, parts in device_memory(run).items():
        told = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts)
        total = format_bytes(sum(size for _, size in parts))
        yield f"a device of {pool}, estimated: {total}" + (f" ({told})" if told else "")


def device_memory(run: RunConfig) -> dict[str, list[tuple[str, int]]]:
    """What a device of each pool will hold, estimated: pool to parts and their bytes."""
    seated = {pool: [role for role in run.roles if run.pool_of(role.name) == pool] for pool in run.pools}
    return {
        pool: [(name, size) for role in roles for name, size in _parts(run, role) if size]
        for pool, roles in seated.items()
    }


def _parts(run: RunConfig, role: RoleConfig) -> Iterator[tuple[str, int]]:
    """What a role keeps on a device: name and bytes."""
    if role.name == "actor":
        yield "weights", memory.weight_bytes(role)
        yield "adapters", memory.adapter_bytes(role)
        yield "merged weights", memory.merged_bytes(role) if run.is_online and role.adapters.is_on else 0
        yield "gradient", memory.gradient_bytes(role)
        yield from _alternating(run, role)
    elif role.name == "rollout":
        yield "rollout weights", 0 if rollout_in_place(run) else memory.weight_bytes(role)
        yield "rollout cache", memory.cache_bytes(role, iteration_workload(run).reserved_tokens)
        if role.pairing.samples_from_reference:
            yield from _met(run, role)
    elif role.name == "ref" and run.is_ref_within_actor:
        return
    elif not (role.name == "reward" and role.reward_source != "model") and not _is_cached(role):
        yield f"{role.name} weights", memory.weight_bytes(role, scores=role.name == "reward")


def _alternating(run: RunConfig, actor: RoleConfig) -> Iterator[tuple[str, int]]:
    """Activations and optimizer state: an offloaded state is on the device only when activations are not."""
    optimizer, activations = (
        memory.optimizer_bytes(actor, run.data_parallel_size("actor")),
        memory.activation_bytes(actor),
    )
    if actor.optimizer.optimizer_offload:
        yield "optimizer or activations", max(optimizer, activations)
        return
    yield "optimizer", optimizer
    yield "activations", activations


def _met(run: RunConfig, rollout: RoleConfig) -> Iterator[tuple[str, int]]:
    """The reference as the rollout answers with it; a mixture fills both caches at once."""
    assert run.ref is not None
    ref = replace(run.ref, parallel=rollout.parallel)
    yield "reference weights", memory.weight_bytes(ref)
    if rollout.pairing.online_method == NASH_MD:
        yield "reference cache", memory.cache_bytes(ref, iteration_workload(run).reserved_tokens)


def rollout_in_place(run: RunConfig) -> bool:
    """Whether the rollout reads the training weights themselves: the same devices, the same shards, all layers."""
    assert run.rollout is not None
    return run.pool_of("rollout") == run.pool_of("actor") and all(
        getattr(run.actor.parallel, key) == getattr(run.rollout.parallel, key)
        for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size")
    )


def _is_cached(role: RoleConfig) -> bool:
    return role.name == "ref" and role.reference.reference == "cached"


def _millions(role: RoleConfig) -> str:
    count = memory.parameters(role.model, scores=role.name == "reward")
    return f"{count / 1e6:,.1f} M parameters, {role.precision.dtype}"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def format_bytes(size: int) -> str:
    """A size for people."""
    return f"{size / MIB / 1024:.1f} GiB" if size >= 1024 * MIB else f"{size / MIB:.1f} MiB"
