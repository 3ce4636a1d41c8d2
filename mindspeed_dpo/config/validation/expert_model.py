"""Rules about models with experts and how their experts are shared."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.config.settings.parallel_sizes_and_timeout import EXPERT_LAYOUT_KEYS, ParallelConfig

_EP = "expert_model_parallel_size"


def check_experts(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that the router can choose, and that some layer has experts."""
    model, count = role.model, role.model.num_experts
    if model.rotary_percent != 1 and (model.rotary_width % 2 or not model.rotary_width):
        yield Violation(
            ("rotary_percent", "kv_channels"),
            f"rotates {model.rotary_width} of kv_channels={model.kv_channels}; an even number of at least 2 is needed",
        )
    if count is None:
        return
    outside = [layer for layer in model.mlp_only_layers if not 0 <= layer < model.num_layers]
    if outside:
        yield Violation(
            ("mlp_only_layers", "num_layers"), f"names layer {outside[0]}, but layers are 0 to {model.num_layers - 1}"
        )
    elif not any(model.is_moe_layer(layer) for layer in range(model.num_layers)):
        yield Violation(
            ("num_experts", "first_k_dense_replace", "moe_layer_freq", "mlp_only_layers", "num_layers"),
            "has no effect: all layers are dense by first_k_dense_replace, moe_layer_freq and mlp_only_layers",
        )
    yield from _check_groups(model, count)
    if model.shared_expert_gate and not model.moe_shared_expert_intermediate_size:
        yield Violation(
            ("shared_expert_gate", "n_shared_experts", "moe_shared_expert_intermediate_size"),
            "has no effect without shared experts; set moe_shared_expert_intermediate_size",
        )


def _check_groups(model: ModelConfig, count: int) -> Iterator[Violation]:
    groups, best = model.moe_router_num_groups, model.moe_router_group_topk
    smallest = 2 if model.moe_router_score_function == "sigmoid" and groups > 1 else 1
    if count % groups or count // groups < smallest:
        yield Violation(
            ("moe_router_num_groups", "num_experts"),
            f"does not divide num_experts={count} into groups of at least {smallest}",
        )
    elif best > groups:
        yield Violation(
            ("moe_router_group_topk", "moe_router_num_groups"), f"is more than moe_router_num_groups={groups}"
        )
    elif model.moe_router_topk > count // groups * best:
        yield Violation(
            ("moe_router_topk", "num_experts", "moe_router_num_groups", "moe_router_group_topk"),
            f"is more than the {count // groups * best} experts that a token can choose from",
        )


def check_expert_split(role: RoleConfig, run: RunConfig) -> Iterator[Violation]:
    """Check that experts divide over the expert-parallel devices, and these over the devices of a stage."""
    model, parallel = role.model, role.parallel
    size, tp = parallel.expert_parallel_size, parallel.tensor_model_parallel_size
    keys = (_EP, "moe_tp_extend_ep", "tensor_model_parallel_size")
    if model.num_experts is None:
        for key in EXPERT_LAYOUT_KEYS:
            if getattr(parallel, key) != getattr(ParallelConfig(), key):
                yield Violation((key, "num_experts"), "has no effect: the model has no experts; remove it")
        return
    stage = run.num_processes(role.name) // parallel.pipeline_model_parallel_size
    if model.num_experts % size or stage % size:
        choices = [n for n in range(1, stage + 1) if model.num_experts % n == 0 and stage % n == 0]
        yield Violation(
            (*keys, "num_experts", "pipeline_model_parallel_size"),
            f"gives an expert-parallel size of {size}, which does not divide num_experts={model.num_experts} and the "
            f"{stage} devices of a pipeline stage; choose a size of {join_words(choices)}",
        )
    if tp > 1 and not parallel.sequence_parallel:
        yield Violation(
            ("sequence_parallel", "tensor_model_parallel_size", "num_experts"),
            "must be true: with experts, tensor-parallel devices route different tokens",
        )
    shared, width = "moe_shared_expert_intermediate_size", model.moe_shared_expert_intermediate_size
    if width % tp:
        yield Violation(
            ("tensor_model_parallel_size", shared), f"does not divide {shared}={width}; choose a divisor of it"
        )


def check_expert_training(run: RunConfig) -> Iterator[Violation]:
    """Check settings of routers, and reject what is not implemented for models with experts."""
    actor, num_stages = run.actor, run.actor.parallel.pipeline_model_parallel_size
    if actor.router.router_aux_loss_coef and num_stages > 1:
        yield Violation(
            ("router_aux_loss_coef", "pipeline_model_parallel_size"),
            f"cannot be combined with pipeline_model_parallel_size={num_stages}: it pools the choices of all layers; "
            "use moe_aux_loss_coeff, which is of each layer",
        )
    if not actor.model.has_experts:
        for key in (
            "moe_aux_loss_coeff", "router_aux_loss_coef", "moe_z_loss_coeff", "moe_router_bias_update_rate",
            "freeze_moe_router",
        ):  # fmt: skip
            if getattr(actor.router, key):
                yield Violation((key, "num_experts"), "has no effect: the model has no experts; remove it")
    elif actor.router.moe_router_bias_update_rate:
        yield from _check_bias_update(run)


def _check_bias_update(run: RunConfig) -> Iterator[Violation]:
    """Check that there is a bias, and that a checkpoint holds it."""
    key, actor = "moe_router_bias_update_rate", run.actor
    if not actor.model.moe_router_enable_expert_bias:
        yield Violation((key, "moe_router_enable_expert_bias"), "has no effect: the routers have no bias; remove it")
    if actor.adapters.is_on:
        yield Violation(
            (key, "lora_target_modules"),
            "cannot be combined with adapters, whose checkpoints do not contain the bias; set it to 0",
        )
    if actor.reference.sync_ref_model:
        yield Violation(
            (key, "sync_ref_model"), "cannot be combined with sync_ref_model, which updates no bias; set it to 0"
        )
