"""What must hold between settings of online DPO: lengths, mini-batches, devices that generate, what scores."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.estimates.workload import CACHE_BLOCK, Workload, iteration_workload
from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy.aliases import listing
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.model import divisors, split_sizes
from mindspeed_dpo.config.validation.online_method import check_met, check_method
from mindspeed_dpo.config.validation.violation import Violation, report


def check_online(run: RunConfig, findings: Issues) -> None:
    """Apply every check of online DPO."""
    work = iteration_workload(run)
    checks = (
        _lengths,
        _mini_batches,
        _sampling,
        _generating,
        _staleness,
        _bucket,
        _tokenizer,
        _ways_to_score,
        check_method,
    )
    for check in checks:
        for wrong in check(run):
            report(run, run.actor, wrong, findings)
    for wrong in _cache(run, work):
        report(run, run.actor, wrong, findings)
    if run.ref is not None:
        for wrong in check_met(run, run.ref):
            report(run, run.ref, wrong, findings)
    if run.reward is not None:
        for wrong in _reward(run, run.reward):
            report(run, run.reward, wrong, findings)
    _note(run, work, findings)


def _note(run: RunConfig, work: Workload, findings: Issues) -> None:
    replicas = run.data_parallel_size("rollout")
    if work.prompts < replicas:
        findings.note(
            f"global_batch_size={work.prompts} prompts leave {replicas - work.prompts} of {replicas} rollout replicas "
            "without work"
        )
    step = run.actor.rollout.num_samples_per_step
    if step is not None and step > work.prompts_per_replica:
        findings.note(
            f"num_samples_per_step={step} is more than the {work.prompts_per_replica} prompts of a rollout replica, "
            "which go in one call"
        )


def _lengths(run: RunConfig) -> Iterator[Violation]:
    if run.actor.max_new_tokens < 1:
        yield Violation(
            ("max_prompt_length", "seq_length", "max_position_embeddings"),
            f"leaves no room for an answer: seq_length={run.actor.data.seq_length} must be more",
        )


def _mini_batches(run: RunConfig) -> Iterator[Violation]:
    total = run.actor.batch.global_batch_size
    if total % run.actor.pairing.ppo_mini_batch_size:
        yield Violation(
            ("ppo_mini_batch_size", "global_batch_size"),
            f"does not divide global_batch_size={total}; choose {listing(divisors(total))}",
        )


def _sampling(run: RunConfig) -> Iterator[Violation]:
    if not run.actor.rollout.do_sample:
        yield Violation(
            ("do_sample",),
            "is refused: without sampling the answers to a prompt are all equal, and equal answers make no pair",
        )


def _generating(run: RunConfig) -> Iterator[Violation]:
    tp, processes = run.actor.rollout.inference_tensor_model_parallel_size, run.num_processes("rollout")
    sizes = split_sizes(run.actor.model)
    uneven = [f"{name}={size}" for name, size in sizes.items() if size % tp]
    if processes % tp:
        own = "rollout" in run.pools
        uneven.append(f"num_gpus_for_infer={processes}" if own else f"the {processes} processes of the actor")
    if uneven:
        good = listing(divisors(math.gcd(processes, *sizes.values())))
        because = ("tensor_model_parallel_size", "num_gpus_for_train", "num_gpus_for_infer", "actor_rollout")
        yield Violation(
            ("inference_tensor_model_parallel_size", *because, *sizes, "hidden_size"),
            f"does not divide {listing(uneven, 'and')}; choose {good}",
        )


def _staleness(run: RunConfig) -> Iterator[Violation]:
    """Who answers on the devices that learn cannot do both at once."""
    if run.actor.rollout.rollout_staleness and run.pool_of("rollout") == run.pool_of("actor"):
        yield Violation(
            ("rollout_staleness", "num_gpus_for_infer"),
            "has no effect where the policy answers on the devices on which it learns; give it devices of its own with "
            "num_gpus_for_infer, or remove it",
        )


def _bucket(run: RunConfig) -> Iterator[Violation]:
    """The transfer cuts weights between rows, so a bucket must hold the longest one."""
    model, precision = run.actor.model, run.actor.precision
    rows = {
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads x kv_channels": model.num_attention_heads * model.kv_channels,
    }
    widest = max(rows, key=lambda name: rows[name])
    needed = rows[widest] * (4 if precision.dtype == "float32" else 2)
    if needed > run.actor.rollout.publish_bucket_bytes:
        yield Violation(
            ("publish_bucket_bytes", "hidden_size", "ffn_hidden_size"),
            f"holds no row of {widest}={rows[widest]} in {precision.dtype}; set it to {needed} at least",
        )


def _cache(run: RunConfig, work: Workload) -> Iterator[Violation]:
    most = run.actor.rollout.max_tokens_to_oom
    if work.cache_tokens > most:
        fitting = most // work.capacity
        slots = f", or set rollout_slots={fitting}" if fitting else ""
        yield Violation(
            ("max_tokens_to_oom", "rollout_slots", "seq_length", "max_position_embeddings", "global_batch_size"),
            f"is less than the {work.cache_tokens} tokens that a rollout replica may hold: {work.slots} responses of "
            f"seq_length={run.actor.data.seq_length} in blocks of {CACHE_BLOCK}; raise it{slots}",
        )


def _tokenizer(run: RunConfig) -> Iterator[Violation]:
    if not run.actor.data.tokenizer_name_or_path:
        yield Violation(("tokenizer_name_or_path",), "must name the tokenizer's directory: it tells where answers end")


def _ways_to_score(run: RunConfig) -> Iterator[Violation]:
    assert run.reward is not None
    settings = run.actor.reward
    by_model = run.reward.checkpoint.load or run.reward.checkpoint.random_init
    ways = {"reward_functions": settings.reward_functions, "judge": settings.judge, "load of section reward": by_model}
    first, *others = [way for way, given in ways.items() if given] or [""]
    if others:
        yield Violation((first, "judge"), f"and {listing(others, 'and')} exclude each other; keep one")
    if settings.reward_weights and len(settings.reward_weights) != len(settings.reward_functions):
        yield Violation(
            ("reward_weights", "reward_functions"),
            f"has {len(settings.reward_weights)} of {len(settings.reward_functions)} weights: give each of "
            "reward_functions one, or none",
        )


def _reward(run: RunConfig, reward: RoleConfig) -> Iterator[Violation]:
    if reward.reward_source != "model":
        return
    checkpoint = reward.checkpoint
    if checkpoint.load and checkpoint.random_init:
        yield Violation(("random_init", "load"), "and load exclude each other; keep one")
    if not checkpoint.load and not checkpoint.random_init:
        yield Violation(
            ("load", "random_init", "reward_functions", "judge"),
            "must name a reward model, or let reward_functions or a judge score",
        )
    if reward.model.vocab_size != run.actor.model.vocab_size and not reward.reward.reward_tokenizer:
        yield Violation(
            ("vocab_size", "padded_vocab_size", "reward_tokenizer", "model"),
            f"differs from {run.actor.model.vocab_size} of the actor, whose tokens it is given; name its own tokenizer "
            "in reward_tokenizer",
        )
