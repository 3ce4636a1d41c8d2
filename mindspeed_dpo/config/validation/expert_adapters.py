"""Rules about LoRA adapters of models with experts."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.estimates.adapter_parameter_counts import stage_adapter_parameters, stages
from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.lora import EXPERT_TARGETS, GATE_UP

_MODULES, _PARAMETERS = "lora_target_modules", "lora_target_parameters"
_HALVES = frozenset({"gate_proj", "up_proj"})


def check_expert_adapters(actor: RoleConfig) -> Iterator[Violation]:
    """Check which matrices of experts have adapters, and that every pipeline stage has something to train."""
    adapters = actor.adapters
    unknown = [name for name in adapters.lora_target_parameters if name not in EXPERT_TARGETS]
    if unknown:
        yield Violation(
            (_PARAMETERS,),
            f"names {unknown[0]}, which cannot have an adapter; choose from {join_words(EXPERT_TARGETS)}"
            + did_you_mean(unknown[0], EXPERT_TARGETS),
        )
    elif not actor.model.has_experts:
        if adapters.lora_target_parameters:
            yield Violation((_PARAMETERS, "num_experts"), "has no effect: the model has no experts; remove it")
    else:
        yield from _check_matrices(actor)
        yield from _check_stages(actor)


def _check_matrices(actor: RoleConfig) -> Iterator[Violation]:
    adapters = actor.adapters
    halves = adapters.expert_matrices & _HALVES
    if GATE_UP in adapters.expert_matrices and halves:
        yield Violation(
            (_PARAMETERS, _MODULES),
            f"has {GATE_UP} together with {join_words(sorted(halves), 'and')} of the same experts; name them once",
        )
    elif len(halves) == 1:
        missing = next(iter(_HALVES - halves))
        yield Violation(
            (_MODULES, _PARAMETERS),
            f"names {next(iter(halves))} of experts without {missing}; these are one parameter, as in PEFT with "
            f"transformers 5: name both, or neither",
        )
    if adapters.expert_matrices and adapters.lora_dropout:
        yield Violation(
            ("lora_dropout", _MODULES, _PARAMETERS),
            "cannot be combined with adapters of experts, as in PEFT; set it to 0, or name modules of attention only",
        )
    if actor.router.freeze_moe_router:
        yield Violation(
            ("freeze_moe_router", _MODULES), "has no effect: with adapters the routers are frozen; remove it"
        )


def _check_stages(actor: RoleConfig) -> Iterator[Violation]:
    pp = actor.parallel.pipeline_model_parallel_size
    if pp < 1 or actor.model.num_layers % pp or actor.model.num_experts is None:
        return  # reported by other rules
    for stage, counts in zip(stages(actor), stage_adapter_parameters(actor), strict=True):
        if not sum(counts):
            yield Violation(
                (_MODULES, _PARAMETERS, "pipeline_model_parallel_size"),
                f"leaves the pipeline stage of layers {stage.start} to {stage.stop - 1} without any adapter; name "
                "modules of attention, or use fewer stages",
            )
            return
