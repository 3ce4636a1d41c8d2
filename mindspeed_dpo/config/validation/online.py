"""Rules about online DPO: lengths, mini-batches, devices that generate, weight transfers, and the reward."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.estimates.workload import CACHE_BLOCK, Workload, iteration_workload
from mindspeed_dpo.config.issues import Issues, Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.judge_model import check_judge_model
from mindspeed_dpo.config.validation.parallel_layout import divisors, tensor_parallel_sizes
from mindspeed_dpo.config.validation.vllm_rollout import check_vllm
from mindspeed_dpo.config.validation.xpo_and_nash_md import check_online_method, check_reference_rollout


def check_online(run: RunConfig, issues: Issues) -> None:
    """Apply every rule about online DPO and add notes about unused capacity."""
    work = iteration_workload(run)
    rules = (
        *(
            _check_lengths,
            _check_mini_batches,
            _check_rollout_layout,
            _check_rollout_experts,
            _check_staleness,
            _check_transfer_bucket,
        ),
        *(_check_tokenizer, _check_reward_source, check_online_method),
    )
    for rule in rules:
        issues.add_violations(rule(run), run.actor, run)
    check_vllm(run, issues)
    issues.add_violations(check_judge_model(run), run.actor, run)
    if not run.actor.rollout.uses_vllm:
        issues.add_violations(_check_cache(run, work), run.actor, run)
    if run.ref is not None:
        issues.add_violations(check_reference_rollout(run, run.ref), run.ref, run)
    if run.reward is not None:
        issues.add_violations(_check_reward_model(run, run.reward), run.reward, run)
    _note_unused_capacity(run, work, issues)


def _note_unused_capacity(run: RunConfig, work: Workload, issues: Issues) -> None:
    replicas = run.data_parallel_size("rollout")
    if work.prompts < replicas:
        issues.add_note(
            f"global_batch_size={work.prompts} prompts leave {replicas - work.prompts} of {replicas} rollout replicas "
            "without work"
        )
    step = run.actor.rollout.num_samples_per_step
    if step is not None and step > work.prompts_per_replica:
        issues.add_note(
            f"num_samples_per_step={step} is more than the {work.prompts_per_replica} prompts of a rollout replica, "
            "which are generated in one call"
        )


def _check_lengths(run: RunConfig) -> Iterator[Violation]:
    if run.actor.max_new_tokens < 1:
        yield Violation(
            ("max_prompt_length", "seq_length", "max_position_embeddings"),
            f"leaves no tokens for a response: seq_length={run.actor.data.seq_length} must be more",
        )


def _check_mini_batches(run: RunConfig) -> Iterator[Violation]:
    total = run.actor.batch.global_batch_size
    if total % run.actor.pairing.ppo_mini_batch_size:
        yield Violation(
            ("ppo_mini_batch_size", "global_batch_size"),
            f"does not divide global_batch_size={total}; choose {join_words(divisors(total))}",
        )


def _check_rollout_layout(run: RunConfig) -> Iterator[Violation]:
    """Check that the tensor-parallel size of the rollout divides the model and the processes."""
    tp, processes = run.actor.rollout.inference_tensor_model_parallel_size, run.num_processes("rollout")
    sizes = tensor_parallel_sizes(run.actor.model)
    if run.actor.model.has_experts and run.actor.model.moe_shared_expert_intermediate_size:
        sizes["moe_shared_expert_intermediate_size"] = run.actor.model.moe_shared_expert_intermediate_size
    indivisible = [f"{name}={size}" for name, size in sizes.items() if size % tp]
    if processes % tp:
        own = "rollout" in run.pools
        indivisible.append(f"num_gpus_for_infer={processes}" if own else f"the {processes} processes of the actor")
    if indivisible:
        causes = ("tensor_model_parallel_size", "num_gpus_for_train", "num_gpus_for_infer", "actor_rollout")
        yield Violation(
            ("inference_tensor_model_parallel_size", *causes, *sizes, "hidden_size"),
            f"does not divide {join_words(indivisible, 'and')}; "
            f"choose {join_words(divisors(math.gcd(processes, *sizes.values())))}",
        )


def _check_rollout_experts(run: RunConfig) -> Iterator[Violation]:
    """Check that experts divide over the devices that generate, whose expert groups hold complete replicas."""
    key, count = "inference_expert_model_parallel_size", run.actor.model.num_experts
    rollout, processes = run.actor.rollout, run.num_processes("rollout")
    tp, size = rollout.inference_tensor_model_parallel_size, rollout.inference_expert_model_parallel_size
    if count is None:
        if size > 1:
            yield Violation((key, "num_experts"), "has no effect: the model has no experts; remove it")
        return
    usable = [ep for ep in divisors(math.gcd(count, processes)) if ep % tp == 0 or tp % ep == 0]
    if size not in usable:
        causes = ("num_experts", "inference_tensor_model_parallel_size", "num_gpus_for_infer", "actor_rollout")
        yield Violation(
            (key, *causes),
            f"must divide num_experts={count} and the {processes} devices that generate, and be a multiple or a "
            f"divisor of inference_tensor_model_parallel_size={tp}; choose {join_words(usable)}",
        )


def _check_staleness(run: RunConfig) -> Iterator[Violation]:
    """Check that generation overlaps with training only on devices of its own."""
    if run.actor.rollout.rollout_staleness and run.pool_of("rollout") == run.pool_of("actor"):
        yield Violation(
            ("rollout_staleness", "num_gpus_for_infer"),
            "has no effect where the policy generates on the training devices; set num_gpus_for_infer to give it "
            "devices of its own, or remove it",
        )


def _check_transfer_bucket(run: RunConfig) -> Iterator[Violation]:
    """Check that a transfer holds at least one row of every weight, since weights are split between rows only."""
    model, precision = run.actor.model, run.actor.precision
    rows = {
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads x kv_channels": model.num_attention_heads * model.kv_channels,
        "moe_ffn_hidden_size": model.moe_ffn_hidden_size if model.has_experts else 0,
        "moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size if model.has_experts else 0,
    }
    widest = max(rows, key=lambda name: rows[name])
    required_bytes = rows[widest] * (4 if precision.dtype == "float32" else 2)
    if required_bytes > run.actor.rollout.publish_bucket_bytes:
        yield Violation(
            ("publish_bucket_bytes", "hidden_size", "ffn_hidden_size"),
            f"is less than one row of {widest}={rows[widest]} in {precision.dtype}; set it to at least "
            f"{required_bytes}",
        )


def _check_cache(run: RunConfig, work: Workload) -> Iterator[Violation]:
    limit = run.actor.rollout.max_tokens_to_oom
    if work.cache_tokens > limit:
        num_fitting = limit // work.tokens_per_slot
        slots = f", or set rollout_slots={num_fitting}" if num_fitting else ""
        yield Violation(
            ("max_tokens_to_oom", "rollout_slots", "seq_length", "max_position_embeddings", "global_batch_size"),
            f"is less than the {work.cache_tokens} tokens in the cache of a rollout replica: {work.slots} responses of "
            f"seq_length={run.actor.data.seq_length} in blocks of {CACHE_BLOCK}; raise it{slots}",
        )


def _check_tokenizer(run: RunConfig) -> Iterator[Violation]:
    if not run.actor.data.tokenizer_name_or_path:
        yield Violation(
            ("tokenizer_name_or_path",), "must name the directory of the tokenizer, which defines the stop tokens"
        )


def _check_reward_source(run: RunConfig) -> Iterator[Violation]:
    assert run.reward is not None
    settings = run.actor.reward
    has_model = run.reward.checkpoint.load or run.reward.checkpoint.random_init
    sources = {
        "reward_functions": settings.reward_functions,
        "judge": settings.judge,
        "judge_model": settings.judge_model,
        "load of section reward": has_model,
    }
    first, *others = [source for source, is_set in sources.items() if is_set] or [""]
    if others:
        yield Violation(
            (first, "judge", "judge_model"), f"and {join_words(others, 'and')} exclude each other; keep one"
        )
    functions, weights = settings.reward_functions, settings.reward_weights
    if weights and len(weights) != len(functions):
        message = f"must have a weight for each of the {len(functions)} reward_functions, or none"
        yield Violation(
            ("reward_weights", "reward_functions"), message if functions else "has no effect without reward_functions"
        )


def _check_reward_model(run: RunConfig, reward: RoleConfig) -> Iterator[Violation]:
    if reward.reward_source != "model":
        return
    checkpoint = reward.checkpoint
    if checkpoint.load and checkpoint.random_init:
        yield Violation(("random_init", "load"), "and load exclude each other; keep one")
    if not checkpoint.load and not checkpoint.random_init:
        yield Violation(
            ("load", "random_init", "reward_functions", "judge", "judge_model"),
            "must name a reward model; or set reward_functions, a judge or a judge_model",
        )
    if reward.model.vocab_size != run.actor.model.vocab_size and not reward.reward.reward_tokenizer:
        yield Violation(
            ("vocab_size", "padded_vocab_size", "reward_tokenizer", "model"),
            f"differs from {run.actor.model.vocab_size} of the actor, whose token ids it receives; set "
            "reward_tokenizer to the reward model's own tokenizer",
        )
