"""What must hold for the settings of adapters."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.legacy.aliases import did_you_mean, listing
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.field import declared
from mindspeed_dpo.config.settings.lora import LORA_TARGETS, AdapterConfig
from mindspeed_dpo.config.validation.violation import Violation

ADAPTER_KEYS = tuple(declared(AdapterConfig))
_OTHERS = ADAPTER_KEYS[1:]


def check_adapters(run: RunConfig) -> Iterator[Violation]:
    """The targets are known, and the weights beneath the adapters can be found again."""
    adapters, checkpoint = run.actor.adapters, run.actor.checkpoint
    if not adapters.is_on:
        for key in _OTHERS:
            if f"actor.{key}" in run.origins and getattr(adapters, key) != getattr(AdapterConfig(), key):
                yield Violation(
                    (key, "lora_target_modules"),
                    "has no effect without lora_target_modules, such as [all-linear]; remove it or name them",
                )
        return
    unknown = [name for name in adapters.lora_target_modules if name not in LORA_TARGETS]
    if unknown:
        yield Violation(
            ("lora_target_modules",),
            f"names {unknown[0]}, which has no adapter; choose among {listing(LORA_TARGETS)}"
            + did_you_mean(unknown[0], LORA_TARGETS),
        )
    if checkpoint.random_init:
        yield Violation(
            ("random_init", "lora_target_modules"),
            "has no meaning with lora_target_modules: checkpoints hold the adapters only, and random weights beneath "
            "them could not be found again; give load, or train all weights",
        )
    if checkpoint.load_checkpoint_loosely:
        yield Violation(
            ("load_checkpoint_loosely", "lora_target_modules"),
            "has no meaning with lora_target_modules: weights that are drawn beneath adapters could not be found again",
        )
