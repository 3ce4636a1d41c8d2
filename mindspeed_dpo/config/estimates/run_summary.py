"""Summary of a run before it starts: layout of the roles, workload of a step, and estimated memory per device.

`plan_lines` is the summary as a few log lines; the dry run shows the same parts as tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mindspeed_dpo.config.estimates import memory
from mindspeed_dpo.config.estimates.adapter_parameter_counts import num_adapter_parameters
from mindspeed_dpo.config.estimates.workload import iteration_workload
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.batch_size import BatchConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.pair_selection import NASH_MD
from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.config.sourced_values import format_value

MIB = 2**20


def plan_lines(run: RunConfig) -> list[str]:
    """Return the summary of a run as log lines."""
    first = f"plan: {run.loop.stage}, {run.loop.train_iters} steps"
    return [first, *_role_lines(run), *workload_lines(run), *_memory_lines(run)]


def _role_lines(run: RunConfig) -> Iterator[str]:
    for role, pool, nodes, layout in role_layouts(run):
        yield f"{role} on {pool} {nodes}: {layout}"
    if run.actor.adapters.is_on:
        adapters, count = run.actor.adapters, num_adapter_parameters(run.actor)
        of_experts = adapters.expert_ranks if run.actor.model.has_experts else ()
        names = [*adapters.modules, *(f"experts.{name}" for name in of_experts)]
        yield f"adapters on {join_words(names, 'and')}: {count:,} trained parameters"


def role_layouts(run: RunConfig) -> Iterator[tuple[str, str, str, str]]:
    """Yield for each role its name, its pool, the pool's processes per node, and its layout or substitute."""
    for role in run.roles:
        pool = run.pool_of(role.name)
        yield role.name, pool, format_value(run.pools[pool]), _layout(run, role)


def _layout(run: RunConfig, role: RoleConfig) -> str:
    if role.name == "reward" and role.reward_source != "model":
        return _substitute(run, role.reward)
    if role.name == "ref" and run.is_ref_within_actor:
        return f"the actor with its adapters off, {'once before training' if _is_cached(role) else 'at each step'}"
    if _is_cached(role):
        return "computed once before training"
    tp, pp = role.parallel.tensor_model_parallel_size, role.parallel.pipeline_model_parallel_size
    virtual = f" with {role.num_chunks} virtual stages each" if role.num_chunks > 1 else ""
    cp = f" x CP {role.parallel.context_parallel_size}" if role.parallel.context_parallel_size > 1 else ""
    ep = f", EP {role.parallel.expert_parallel_size}" if role.parallel.expert_parallel_size > 1 else ""
    parameters = memory.num_parameters(role.model, scalar_head=role.has_score_head)
    size = f"{parameters / 1e6:,.1f} M parameters{_active(role.model)}, {role.precision.dtype}"
    engine = ", vLLM" if role.name == "rollout" and role.rollout.uses_vllm else ""
    return f"TP {tp}{cp} x PP {pp}{virtual} x DP {run.data_parallel_size(role.name)}{ep}, {size}{engine}"


def _substitute(run: RunConfig, reward: RewardConfig) -> str:
    """The source of scores that takes the place of a reward model."""
    if reward.reward_source == "judge_model":
        size = reward.judge_tensor_model_parallel_size
        engines = run.data_parallel_size("reward")
        return f"judge_model {reward.judge_model} ({reward.judge_mode}), TP {size} x DP {engines}, vLLM"
    names = reward.reward_functions if reward.reward_source == "functions" else (reward.judge,)
    return f"{reward.reward_source} {', '.join(map(str, names))}"


def _active(model: ModelConfig) -> str:
    """The parameters that compute a token, of a model with experts."""
    if not model.has_experts:
        return ""
    return f" ({memory.num_parameters(model, experts=model.moe_router_topk) / 1e6:,.1f} M active)"


def workload_lines(run: RunConfig) -> Iterator[str]:
    """Yield the workload of one step as lines."""
    actor, replicas = run.actor, _count(run.data_parallel_size("actor"), "replica")
    batch, micro_batch = actor.batch, _micro_batch(actor.batch)
    if not run.is_online:
        passes = "micro-batches"
        if batch.micro_batch_size is not None:
            num_passes = batch.global_batch_size // (batch.micro_batch_size * run.data_parallel_size("actor"))
            passes = _count(num_passes, "micro-batch", "es")
        yield f"step: {batch.global_batch_size} pairs on {replicas}, {passes} of {micro_batch}"
        yield f"sequence: at most {actor.data.seq_length} tokens"
        return
    work, rollout = iteration_workload(run), actor.rollout
    yield (
        f"step: {work.prompts} prompts x {rollout.n_samples_per_prompt} = {work.responses} responses, at most "
        f"{_count(work.pairs, 'pair')}"
    )
    yield f"prompt: at most {rollout.max_prompt_length} tokens; response: at most {actor.max_new_tokens} tokens"
    ahead = ", one iteration ahead of training" if rollout.rollout_staleness else ""
    yield (
        f"generation: {_count(run.data_parallel_size('rollout'), 'replica')} x "
        f"{_count(work.prompts_per_replica, 'prompt')}, {work.slots} concurrent responses{ahead}"
    )
    yield (
        f"training: {_count(actor.pairing.ppo_epochs, 'epoch')} in mini-batches of "
        f"{_count(work.mini_batch_pairs, 'pair')}, at most {_count(work.optimizer_steps, 'optimizer step')}; "
        f"{replicas}, micro-batches of {micro_batch}"
    )


def _micro_batch(batch: BatchConfig) -> str:
    """The content of one micro-batch."""
    padded = f", padded to a multiple of {batch.pad_to_multiple_of}" if batch.pad_to_multiple_of > 1 else ""
    if batch.micro_batch_size is not None:
        return _count(batch.micro_batch_size, "pair") + padded
    return f"complete pairs with at most {batch.micro_batch_tokens} tokens in total{padded}"


def _memory_lines(run: RunConfig) -> Iterator[str]:
    for pool, parts in device_memory(run).items():
        details = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts)
        total = format_bytes(sum(size for _, size in parts))
        yield f"memory per device of {pool}, estimated: {total}" + (f" ({details})" if details else "")


def device_memory(run: RunConfig) -> dict[str, list[tuple[str, int]]]:
    """Return the estimated memory of a device of each pool: pool to parts and their sizes in bytes."""
    roles = {pool: [role for role in run.roles if run.pool_of(role.name) == pool] for pool in run.pools}
    return {
        pool: [(name, size) for role in on_pool for name, size in _parts(run, role) if size]
        for pool, on_pool in roles.items()
    }


def _parts(run: RunConfig, role: RoleConfig) -> Iterator[tuple[str, int]]:
    """The name and the bytes of each part that a role holds on a device."""
    if role.name == "actor":
        yield "weights", memory.weight_bytes(role)
        yield "adapters", memory.adapter_bytes(role)
        yield "merged weights", memory.merged_bytes(role) if run.is_online and role.adapters.is_on else 0
        yield "gradients", memory.gradient_bytes(role)
        yield from _optimizer_and_activations(run, role)
    elif role.name == "rollout":
        yield "rollout weights", 0 if _shares_training_weights(run) else memory.weight_bytes(role)
        yield "rollout cache", memory.cache_bytes(role, iteration_workload(run).reserved_tokens)
        if role.pairing.samples_from_reference:
            yield from _reference_for_rollout(run, role)
    elif role.name == "ref" and run.is_ref_within_actor:
        return
    elif not (role.name == "reward" and role.reward_source != "model") and not _is_cached(role):
        yield f"{role.name} weights", memory.weight_bytes(role)


def _optimizer_and_activations(run: RunConfig, actor: RoleConfig) -> Iterator[tuple[str, int]]:
    """Offloaded optimizer state is on the device only while activations are not."""
    optimizer = memory.optimizer_bytes(actor, run.data_parallel_size("actor"))
    activations = memory.activation_bytes(actor)
    if actor.optimizer.optimizer_offload:
        yield "optimizer or activations", max(optimizer, activations)
        return
    yield "optimizer", optimizer
    yield "activations", activations


def _reference_for_rollout(run: RunConfig, rollout: RoleConfig) -> Iterator[tuple[str, int]]:
    """The rollout's copy of the reference; a mixture of both models fills two caches."""
    assert run.ref is not None
    ref = replace(run.ref, parallel=rollout.parallel)
    yield "reference weights", memory.weight_bytes(ref)
    if rollout.pairing.online_method == NASH_MD:
        yield "reference cache", memory.cache_bytes(ref, iteration_workload(run).reserved_tokens)


def _shares_training_weights(run: RunConfig) -> bool:
    """Whether the rollout uses the training weights in place: same devices, same shards and experts, all layers."""
    assert run.rollout is not None
    if run.rollout.rollout.uses_vllm:
        return False
    return run.pool_of("rollout") == run.pool_of("actor") and all(
        getattr(run.actor.parallel, key) == getattr(run.rollout.parallel, key)
        for key in ("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_parallel_size")
    )


def _is_cached(role: RoleConfig) -> bool:
    return role.name == "ref" and role.reference.reference == "cached"


def _count(number: int, unit: str, plural: str = "s") -> str:
    return f"{number} {unit}{'' if number == 1 else plural}"


def format_bytes(size: int) -> str:
    """Format a size in bytes as MiB or GiB."""
    return f"{size / MIB / 1024:.1f} GiB" if size >= 1024 * MIB else f"{size / MIB:.1f} MiB"
