"""What must hold between settings: sizes divide, choices fit together. Nothing is opened; `paths` looks at the disk.

The model of a role and its layout are checked in `checks_model`, what only online DPO has in `checks_online`.
"""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.legacy.aliases import listing
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.evaluation import check_evaluation
from mindspeed_dpo.config.validation.lora import check_adapters
from mindspeed_dpo.config.validation.loss import check_loss
from mindspeed_dpo.config.validation.model import LAYOUT, check_model, check_pool, check_sharing, check_split
from mindspeed_dpo.config.validation.npu import check_on_npu
from mindspeed_dpo.config.validation.online import check_online
from mindspeed_dpo.config.validation.violation import Violation, report


def check_run(run: RunConfig, findings: Issues) -> None:
    """Apply every check to every role that has settings of its own."""
    for role in (run.actor, run.ref, run.reward):
        if role is not None:
            _check_role(role, run, findings)
    checks = (_batch, _schedule, check_loss, _memory, check_evaluation, check_adapters, _following, _weights, _devices)
    for actor_check in checks:
        for wrong in actor_check(run):
            report(run, run.actor, wrong, findings)
    if run.ref is not None:
        for wrong in _reference(run, run.ref):
            report(run, run.ref, wrong, findings)
    if run.is_online:
        check_online(run, findings)


def _check_role(role: RoleConfig, run: RunConfig, findings: Issues) -> None:
    """Check a role's model and layout, as far as they are not those of the actor, which were checked before."""
    checks = [] if role is not run.actor and role.batch == run.actor.batch else [_micro_batch]
    if role is run.actor or role.model != run.actor.model:
        checks.append(check_model)
    if role is run.actor or (role.model, role.parallel) != (run.actor.model, run.actor.parallel):
        checks += [check_split, check_on_npu]
    stands_in = role.name == "reward" and role.reward_source != "model"
    if not stands_in:
        checks.append(check_pool if run.layout_role(run.pool_of(role.name)) is role else check_sharing)
    for check in checks:
        for wrong in check(role, run):
            report(run, role, wrong, findings)


def _micro_batch(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """One of the two ways to fill a micro-batch, and room for what it is padded to."""
    batch = role.batch
    if batch.micro_batch_tokens is None:
        return
    if batch.micro_batch_size is not None:
        yield Violation(
            ("micro_batch_tokens", "micro_batch_size"),
            f"and micro_batch_size={batch.micro_batch_size} both say what a micro-batch holds; keep one, and set the "
            "other to null where it comes from a file or another section",
        )
    if batch.micro_batch_tokens < role.row_multiple:
        yield Violation(
            ("micro_batch_tokens", "pad_to_multiple_of"),
            f"is less than {role.row_multiple}, to a multiple of which micro-batches are padded",
        )
    said = run.origins.get("actor.global_batch_size")
    if role is run.actor and (said is None or said.written is None):
        yield Violation(
            ("micro_batch_tokens", "global_batch_size"), "needs global_batch_size, which does not follow from it"
        )


def _batch(run: RunConfig) -> Iterator[Violation]:
    if run.is_online:  # Pairs drop out, so there is nothing to divide.
        return
    batch, replicas = run.actor.batch, max(1, run.data_parallel_size("actor"))
    if batch.micro_batch_tokens is not None:
        if batch.global_batch_size < replicas:
            yield Violation(
                ("global_batch_size", "tensor_model_parallel_size", "pipeline_model_parallel_size", "actor_rollout"),
                f"is less than one pair for each of the {replicas} replicas",
            )
        return
    together = (batch.micro_batch_size or 1) * replicas
    if batch.global_batch_size % together:
        lower = batch.global_batch_size // together * together
        good = listing(size for size in (lower, lower + together) if size)
        yield Violation(
            ("global_batch_size", "micro_batch_size", *LAYOUT, "actor_rollout"),
            f"is no multiple of micro_batch_size x data-parallel size = {batch.micro_batch_size} x {replicas}; "
            f"choose {good}",
        )


def _schedule(run: RunConfig) -> Iterator[Violation]:
    rate = run.actor.optimizer
    if rate.min_lr > rate.lr:
        yield Violation(("min_lr", "lr"), f"is more than lr={rate.lr}")
    if rate.lr_warmup_fraction and rate.lr_warmup_iters:
        yield Violation(("lr_warmup_fraction", "lr_warmup_iters"), "and lr_warmup_iters say the same thing; keep one")
    if rate.lr_warmup_iters >= rate.lr_decay_iters:
        yield Violation(
            ("lr_warmup_iters", "lr_decay_iters", "train_iters"),
            f"must be less than lr_decay_iters={rate.lr_decay_iters}",
        )


def _memory(run: RunConfig) -> Iterator[Violation]:
    recompute = run.actor.recompute
    given = {key: getattr(recompute, key) for key in ("recompute_method", "recompute_num_layers")}
    missing = [key for key, value in given.items() if value is None]
    if recompute.recompute_granularity == "full":
        if missing:
            yield Violation(("recompute_granularity", *missing), f"needs {listing(missing, 'and')}, e.g. uniform and 1")
        return
    for key in given.keys() - missing:
        yield Violation((key, "recompute_granularity"), "has no effect without recompute_granularity=full")


def _weights(run: RunConfig) -> Iterator[Violation]:
    checkpoint = run.actor.checkpoint
    if checkpoint.load and checkpoint.random_init:
        yield Violation(("random_init", "load"), "and load exclude each other; keep one")
    if not checkpoint.load and not checkpoint.random_init:
        yield Violation(("load", "random_init"), "must name the initial weights; or set random_init: true on purpose")


def _devices(run: RunConfig) -> Iterator[Violation]:
    if run.actor.parallel.distributed_backend == "gloo" and run.loop.device in ("npu", "cuda"):
        yield Violation(
            ("distributed_backend", "device"), f"runs on the CPU only, but device={run.loop.device}; choose auto"
        )


def _following(run: RunConfig) -> Iterator[Violation]:
    """A reference that follows the policy: in place, so where the policy is."""
    settings = run.actor.reference
    if not settings.sync_ref_model:
        for key, usual in (("ref_model_mixup_alpha", 0.6), ("ref_model_sync_steps", 512)):
            if getattr(settings, key) != usual:
                yield Violation((key, "sync_ref_model"), "has no effect without sync_ref_model=true")
        return
    if settings.reference == "cached":
        yield Violation(("sync_ref_model", "reference"), "needs reference=live: cached values cannot follow")
    elif run.ref is None:
        yield Violation(("sync_ref_model", "dpo_loss_type"), f"has no effect: {run.actor.loss.named} has no reference")
    elif run.is_online and run.actor.pairing.samples_from_reference:
        yield Violation(
            ("sync_ref_model", "online_method"),
            f"does not fit online_method={run.actor.pairing.online_method}, which answers with the reference as it was",
        )
    elif run.actor.adapters.is_on:
        yield Violation(
            ("sync_ref_model", "lora_target_modules"),
            "has no meaning with lora_target_modules: the weights beneath adapters stay as they are",
        )
    elif run.pool_of("ref") != "actor_rollout" or run.ref.model != run.actor.model or run.ref.reward.offload:
        yield Violation(
            ("sync_ref_model", "ref", "offload"),
            "needs a reference of the actor's model, in the actor's processes and not offloaded; remove its own pool",
        )
    elif run.ref.num_chunks != run.actor.num_chunks:
        yield Violation(
            ("sync_ref_model", "num_layers_per_virtual_pipeline_stage", "ref"),
            "needs actor and reference to have the same num_layers_per_virtual_pipeline_stage; set it in training",
        )


def _reference(run: RunConfig, ref: RoleConfig) -> Iterator[Violation]:
    asked = run.actor.reference.ref_model
    if asked and ref.checkpoint.load != asked:
        yield Violation(("load", "ref_model"), f"differs from ref_model={asked}; keep one of them")
    if ref.model.vocab_size != run.actor.model.vocab_size:
        yield Violation(
            ("vocab_size", "padded_vocab_size"),
            f"differs from {run.actor.model.vocab_size} of the actor, with whose tokens the reference is asked",
        )
