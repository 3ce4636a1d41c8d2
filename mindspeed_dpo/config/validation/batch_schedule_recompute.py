"""Rules about batch sizes, the learning-rate schedule, and recomputation."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.parallel_layout import LAYOUT_KEYS


def check_micro_batch(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
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


def check_batch(run: RunConfig) -> Iterator[Violation]:
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


def check_schedule(run: RunConfig) -> Iterator[Violation]:
    """Check the learning rates, the warm-up and the decay against each other."""
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


def check_recompute(run: RunConfig) -> Iterator[Violation]:
    """Check that the keys of recomputation are set together."""
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
