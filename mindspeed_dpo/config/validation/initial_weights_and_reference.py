"""Rules about weights: initial weights, adapters, and the reference."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.lora import LORA_TARGETS, AdapterConfig
from mindspeed_dpo.config.settings.reference_model import ReferenceConfig
from mindspeed_dpo.config.settings.setting import group_settings
from mindspeed_dpo.config.validation.expert_adapters import check_expert_adapters

ADAPTER_KEYS = tuple(group_settings(AdapterConfig))


def check_initial_weights(run: RunConfig) -> Iterator[Violation]:
    """Check that initial weights are either loaded or random."""
    checkpoint = run.actor.checkpoint
    if checkpoint.load and checkpoint.random_init:
        yield Violation(("random_init", "load"), "and load exclude each other; keep one")
    if not checkpoint.load and not checkpoint.random_init:
        yield Violation(
            ("load", "random_init"), "must name the initial weights; set random_init: true to start from random weights"
        )


def check_adapters(run: RunConfig) -> Iterator[Violation]:
    """Check that target modules exist, and that the base weights of the adapters can be loaded again."""
    adapters, checkpoint = run.actor.adapters, run.actor.checkpoint
    if not adapters.is_on:
        for key in ADAPTER_KEYS:
            if f"actor.{key}" in run.origins and getattr(adapters, key) != getattr(AdapterConfig(), key):
                yield Violation(
                    (key, "lora_target_modules"),
                    "has no effect without lora_target_modules, such as [all-linear]; remove it or set them",
                )
        return
    unknown = [name for name in adapters.lora_target_modules if name not in LORA_TARGETS]
    if unknown:
        yield Violation(
            ("lora_target_modules",),
            f"names {unknown[0]}, which cannot have an adapter; choose from {join_words(LORA_TARGETS)}"
            + did_you_mean(unknown[0], LORA_TARGETS),
        )
    else:
        yield from check_expert_adapters(run.actor)
    if checkpoint.random_init:
        yield Violation(
            ("random_init", "lora_target_modules"),
            "cannot be combined with lora_target_modules: checkpoints contain the adapters only, so random base "
            "weights would be lost; set load, or train all weights",
        )
    if checkpoint.load_checkpoint_loosely:
        yield Violation(
            ("load_checkpoint_loosely", "lora_target_modules"),
            "cannot be combined with lora_target_modules: checkpoints contain the adapters only, so randomly "
            "initialised base weights would be lost",
        )


def check_reference(run: RunConfig, ref: RoleConfig) -> Iterator[Violation]:
    """Check that the reference has a single source of weights and the actor's vocabulary."""
    ref_model = run.actor.reference.ref_model
    if ref_model and ref.checkpoint.load != ref_model:
        yield Violation(("load", "ref_model"), f"differs from ref_model={ref_model}; keep one of them")
    if ref.model.vocab_size != run.actor.model.vocab_size:
        yield Violation(
            ("vocab_size", "padded_vocab_size"),
            f"differs from {run.actor.model.vocab_size} of the actor, whose token ids the reference receives",
        )


def check_sync(run: RunConfig) -> Iterator[Violation]:
    """Check that a reference updated from the policy is live, has its model, and can take its weights."""
    settings = run.actor.reference
    if not settings.sync_ref_model:
        for key in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
            if getattr(settings, key) != getattr(ReferenceConfig(), key):
                yield Violation((key, "sync_ref_model"), "has no effect without sync_ref_model=true")
        return
    if settings.reference == "cached":
        yield Violation(("sync_ref_model", "reference"), "requires reference=live: cached values cannot be updated")
    elif run.ref is None:
        yield Violation(
            ("sync_ref_model", "dpo_loss_type"), f"has no effect: {run.actor.loss.display_name} has no reference"
        )
    elif run.is_online and run.actor.pairing.samples_from_reference:
        yield Violation(
            ("sync_ref_model", "online_method"),
            f"cannot be combined with online_method={run.actor.pairing.online_method}, which samples from the initial "
            "reference",
        )
    elif run.actor.adapters.is_on:
        yield Violation(
            ("sync_ref_model", "lora_target_modules"),
            "cannot be combined with lora_target_modules: the base weights, which are the reference, stay frozen",
        )
    elif run.ref.model != run.actor.model or run.ref.precision.dtype != run.actor.precision.dtype:
        yield Violation(
            ("sync_ref_model", "ref", "bf16", "fp16"),
            "requires a reference with the actor's model and number format; remove its model, or use the same",
        )
    elif run.ref.reward.offload:
        yield Violation(("sync_ref_model", "offload"), "requires a reference that is not offloaded; set offload: false")
    elif run.pool_of("ref") != run.pool_of("actor"):
        if run.ref.parallel.pipeline_model_parallel_size > 1:
            yield Violation(
                ("sync_ref_model", "pipeline_model_parallel_size", "ref"),
                "requires a reference with one pipeline stage on processes of its own; set its "
                "pipeline_model_parallel_size: 1, or remove its pool",
            )
    elif run.ref.num_chunks != run.actor.num_chunks:
        yield Violation(
            ("sync_ref_model", "num_layers_per_virtual_pipeline_stage", "ref"),
            "requires the same num_layers_per_virtual_pipeline_stage for actor and reference; set it in training",
        )
