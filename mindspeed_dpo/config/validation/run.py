"""All rules between the settings of a run, applied role by role; batch sizes, schedule and recomputation.

Nothing is opened here: `paths` checks the file system.
"""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Issues, Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.evaluation import check_evaluation
from mindspeed_dpo.config.validation.expert_model import check_expert_split, check_expert_training, check_experts
from mindspeed_dpo.config.validation.initial_weights_and_reference import (
    check_adapters,
    check_initial_weights,
    check_reference,
    check_sync,
)
from mindspeed_dpo.config.validation.loss import check_loss
from mindspeed_dpo.config.validation.model import (
    LAYOUT_KEYS,
    check_model,
    check_npu_limits,
    check_pool,
    check_shared_layout,
    check_split,
)
from mindspeed_dpo.config.validation.online import check_online


def check_run(run: RunConfig, issues: Issues) -> None:
    """Apply every rule to every role that has settings of its own."""
    for role in (run.actor, run.ref, run.reward):
        if role is not None:
            _check_role(role, run, issues)
    rules = (
        *(_check_batch, _check_schedule, check_loss, _check_recompute, check_evaluation),
        *(check_adapters, check_expert_training, check_sync, check_initial_weights),
    )
    for rule in rules:
        issues.add_violations(rule(run), run.actor, run)
    if run.ref is not None:
        issues.add_violations(check_reference(run, run.ref), run.ref, run)
    if run.is_online:
        check_online(run, issues)


def _check_role(role: RoleConfig, run: RunConfig, issues: Issues) -> None:
    """Check the model and the layout of a role where they differ from the actor's, which is checked first."""
    rules = [] if role is not run.actor and role.batch == run.actor.batch else [_check_micro_batch]
    if role is run.actor or role.model != run.actor.model:
        rules += [check_model, check_experts]
    if role is run.actor or (role.model, role.parallel) != (run.actor.model, run.actor.parallel):
        rules += [check_split, check_expert_split, check_npu_limits]
    has_model = role.name != "reward" or role.reward_source == "model"
    if has_model:
        rules.append(check_pool if run.layout_role(run.pool_of(role.name)) is role else check_shared_layout)
    for rule in rules:
        issues.add_violations(rule(role, run), role, run)


def _check_micro_batch(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that a micro-batch is limited either by pairs or by tokens, and that its padding fits."""
    batch = role.batch
    if batch.micro_batch_tokens is None:
        return
    if batch.micro_batch_size is not None:
        yield Violation(
            ("micro_batch_tokens", "micro_batch_size"),
            f"and micro_batch_size={batch.micro_batch_size} both limit a micro-batch; keep one, and set the other to "
            "null if a file or another section sets it",
        )
    if batch.micro_batch_tokens < role.row_multiple:
        yield Violation(
            ("micro_batch_tokens", "pad_to_multiple_of"),
            f"is less than {role.row_multiple}, the multiple to which micro-batches are padded",
        )
    origin = run.origins.get("actor.global_batch_size")
    if role is run.actor and (origin is None or origin.written is None):
        yield Violation(
            ("micro_batch_tokens", "global_batch_size"), "requires global_batch_size, which cannot be derived from it"
        )


def _check_batch(run: RunConfig) -> Iterator[Violation]:
    """Check that the pairs of a step divide into micro-batches and replicas."""
    if run.is_online:  # Pairs are discarded online, so there is nothing to divide.
        return
    batch, replicas = run.actor.batch, max(1, run.data_parallel_size("actor"))
    if batch.micro_batch_tokens is not None:
        if batch.global_batch_size < replicas:
            yield Violation(
                ("global_batch_size", "tensor_model_parallel_size", "pipeline_model_parallel_size", "actor_rollout"),
                f"is less than one pair for each of the {replicas} replicas",
            )
        return
    multiple = (batch.micro_batch_size or 1) * replicas
    if batch.global_batch_size % multiple:
        lower = batch.global_batch_size // multiple * multiple
        choices = join_words(size for size in (lower, lower + multiple) if size)
        yield Violation(
            ("global_batch_size", "micro_batch_size", *LAYOUT_KEYS, "actor_rollout"),
            f"is not a multiple of micro_batch_size x data-parallel size = {batch.micro_batch_size} x {replicas}; "
            f"choose {choices}",
        )


def _check_schedule(run: RunConfig) -> Iterator[Violation]:
    optimizer = run.actor.optimizer
    if optimizer.min_lr > optimizer.lr:
        yield Violation(("min_lr", "lr"), f"is more than lr={optimizer.lr}")
    if optimizer.lr_warmup_fraction and optimizer.lr_warmup_iters:
        yield Violation(("lr_warmup_fraction", "lr_warmup_iters"), "and lr_warmup_iters both set the warm-up; keep one")
    if optimizer.lr_warmup_iters >= optimizer.lr_decay_iters:
        yield Violation(
            ("lr_warmup_iters", "lr_decay_iters", "train_iters"),
            f"must be less than lr_decay_iters={optimizer.lr_decay_iters}",
        )


def _check_recompute(run: RunConfig) -> Iterator[Violation]:
    recompute = run.actor.recompute
    options = {key: getattr(recompute, key) for key in ("recompute_method", "recompute_num_layers")}
    missing = [key for key, value in options.items() if value is None]
    if recompute.recompute_granularity == "full":
        if missing:
            yield Violation(
                ("recompute_granularity", *missing), f"requires {join_words(missing, 'and')}, e.g. uniform and 1"
            )
        return
    for key in options.keys() - missing:
        yield Violation((key, "recompute_granularity"), "has no effect without recompute_granularity=full")
