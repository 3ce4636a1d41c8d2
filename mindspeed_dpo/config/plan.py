"""What a run is about to do, in a few lines: who sits where, how much a step is, what a device will hold.

Memory is an estimate; `sizes` has its formula.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mindspeed_dpo.config import sizes
from mindspeed_dpo.config.coerce import show
from mindspeed_dpo.config.online import NASH_MD
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.work import work_of

MIB = 2**20


def plan_lines(run: RunConfig) -> list[str]:
    """The plan of a run, a line each, for people."""
    return [f"plan: {run.loop.stage}, {run.loop.train_iters} steps", *_seats(run), *_work(run), *_memory(run)]


def _seats(run: RunConfig) -> Iterator[str]:
    for role in run.roles:
        pool, parallel = run.pool_of(role.name), role.parallel
        seat = f"{role.name} on {pool} {show(run.pools[pool])}"
        if role.name == "reward" and role.scores_by != "model":
            named = role.reward.reward_functions if role.scores_by == "functions" else (role.reward.judge,)
            yield f"{seat}: {role.scores_by} {', '.join(map(str, named))}"
        elif _is_cached(role):
            yield f"{seat}: computed once before training"
        else:
            tp, pp = parallel.tensor_model_parallel_size, parallel.pipeline_model_parallel_size
            yield f"{seat}: TP {tp} x PP {pp} x DP {run.data_parallel_size(role.name)}, {_millions(role)}"


def _work(run: RunConfig) -> Iterator[str]:
    actor, replicas = run.actor, _count(run.data_parallel_size("actor"), "replica")
    batch, micro = actor.batch, _count(actor.batch.micro_batch_size, "pair")
    if not run.is_online:
        passes = batch.global_batch_size // (batch.micro_batch_size * run.data_parallel_size("actor"))
        yield f"a step: {batch.global_batch_size} pairs, on {replicas} {_count(passes, 'micro-batch', 'es')} of {micro}"
        yield f"a sequence: at most {actor.data.seq_length} tokens"
        return
    work, rollout = work_of(run), actor.rollout
    mini, steps = _count(work.mini_batch, "pair"), _count(work.optimizer_steps, "optimizer step")
    yield (
        f"a step: {work.prompts} prompts x {rollout.n_samples_per_prompt} = {work.responses} responses, at most "
        f"{_count(work.pairs, 'pair')}"
    )
    yield f"a prompt: at most {rollout.max_prompt_length} tokens; a response: at most {actor.max_new_tokens}"
    yield (
        f"generating: {_count(run.data_parallel_size('rollout'), 'replica')} x "
        f"{_count(work.prompts_of_replica, 'prompt')}, {work.slots} responses at once"
    )
    yield (
        f"learning: {_count(actor.pairing.ppo_epochs, 'pass', 'es')} in mini-batches of {mini}, at most {steps}; "
        f"on {replicas} micro-batches of {micro}"
    )


def _memory(run: RunConfig) -> Iterator[str]:
    for pool in run.pools:
        parts = [part for role in run.roles if run.pool_of(role.name) == pool for part in _parts(run, role)]
        total = sum(size for _, size in parts)
        told = ", ".join(f"{name} {_bytes(size)}" for name, size in parts if size)
        yield f"a device of {pool}, estimated: {_bytes(total)}" + (f" ({told})" if told else "")


def _parts(run: RunConfig, role: RoleConfig) -> Iterator[tuple[str, int]]:
    """What a role keeps on a device: name and bytes."""
    if role.name == "actor":
        yield "weights", sizes.weight_bytes(role)
        yield "gradient", sizes.gradient_bytes(role)
        yield "optimizer", sizes.optimizer_bytes(role, run.data_parallel_size("actor"))
        yield "activations", sizes.activation_bytes(role)
    elif role.name == "rollout":
        yield "rollout weights", 0 if rollout_in_place(run) else sizes.weight_bytes(role)
        yield "rollout cache", sizes.cache_bytes(role, work_of(run).reserved_tokens)
        if role.pairing.meets_another:
            yield from _met(run, role)
    elif not (role.name == "reward" and role.scores_by != "model") and not _is_cached(role):
        yield f"{role.name} weights", sizes.weight_bytes(role, scores=role.name == "reward")


def _met(run: RunConfig, rollout: RoleConfig) -> Iterator[tuple[str, int]]:
    """The reference as the rollout answers with it; a mixture fills both caches at once."""
    assert run.ref is not None
    ref = replace(run.ref, parallel=rollout.parallel)
    yield "reference weights", sizes.weight_bytes(ref)
    if rollout.pairing.online_method == NASH_MD:
        yield "reference cache", sizes.cache_bytes(ref, work_of(run).reserved_tokens)


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
    count = sizes.parameters(role.model, scores=role.name == "reward")
    return f"{count / 1e6:,.1f} M parameters, {role.precision.dtype}"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"


def _bytes(size: int) -> str:
    return f"{size / MIB / 1024:.1f} GiB" if size >= 1024 * MIB else f"{size / MIB:.1f} MiB"
