"""The part of a rank file's `args` that describes experts, under the names of Megatron and of MindSpeed-LLM."""

from __future__ import annotations

import argparse
import reprlib
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layer_placement import ParallelLayout
from mindspeed_dpo.weights.legacy.expert_storage import ExpertDivision, ExpertForm, ExpertStorage

_MAX_EXPERTS, _MAX_WIDTH = 10_000, 2**31 - 1
_ROUTER_FIELDS = {
    "moe_router_topk": (),
    "moe_router_score_function": (),
    "moe_router_enable_expert_bias": (),
    "moe_router_num_groups": ("n_group",),
    "moe_router_group_topk": ("topk_group",),
    "moe_router_topk_scaling_factor": ("routed_scaling_factor",),
    "norm_topk_prob": (),
    "shared_expert_gate": ("moe_shared_expert_gate",),
}
"""Field of `ModelConfig` -> further names in the args."""
_FIELDS: dict[str, tuple[str, ...]] = {
    **_ROUTER_FIELDS,
    "moe_ffn_hidden_size": ("moe_intermediate_size",),
    "moe_shared_expert_intermediate_size": (),
    "n_shared_experts": (),
    "first_k_dense_replace": (),
}


@dataclass(frozen=True)
class ExpertSizes:
    """Sizes by which the experts in a file are distinguished.

    Attributes:
        num_experts: Routed experts of a layer.
        width: Width of one of them.
    """

    num_experts: int
    width: int


def sizes_from_args(args: argparse.Namespace, file: object) -> ExpertSizes:
    """The sizes of the experts.

    Raises:
        WeightsError: The args do not have them.
    """
    names = ("moe_ffn_hidden_size", "moe_intermediate_size", "ffn_hidden_size")
    width = next((value for name in names if (value := getattr(args, name, None)) is not None), None)
    num_experts = getattr(args, "num_experts", None)
    for name, value, limit in (("num_experts", num_experts, _MAX_EXPERTS), ("moe_ffn_hidden_size", width, _MAX_WIDTH)):
        if type(value) is not int or not 1 <= value <= limit:
            raise WeightsError(f"{file}: args have {name}={str(value)[:40]}, expected a number from 1 to {limit}")
    return ExpertSizes(int(str(num_experts)), int(str(width)))


def expert_args(model: ModelConfig, layout: ParallelLayout, storage: ExpertStorage) -> dict[str, Any]:
    """The args to store; those of a dense model say that it has no experts.

    Args:
        model: The architecture.
        layout: How the rank files divide the model.
        storage: How they hold experts.
    """
    has_experts = model.has_experts
    shared, width = model.moe_shared_expert_intermediate_size, model.moe_ffn_hidden_size
    router = {name: getattr(model, name) if has_experts else None for name in _ROUTER_FIELDS}
    aliases = {alias: router[name] for name, others in _ROUTER_FIELDS.items() for alias in others}
    return {
        **aliases,
        **router,
        "shared_expert_gate": has_experts and model.shared_expert_gate,
        # Without this flag Megatron divides the scores of the chosen experts by their sum.
        "moe_router_pre_softmax": has_experts and not model.norm_topk_prob,
        "num_experts": model.num_experts,
        "moe_intermediate_size": width if has_experts else None,
        "moe_ffn_hidden_size": width if has_experts else None,
        "moe_shared_expert_intermediate_size": shared or None if has_experts else None,
        "n_shared_experts": shared // width or None if has_experts and shared % width == 0 else None,
        "first_k_dense_replace": model.first_k_dense_replace if has_experts else None,
        "moe_layer_freq": _layer_freq(model) if has_experts else None,
        "moe_grouped_gemm": has_experts and storage.form is not ExpertForm.PER_EXPERT,
        "moe_tp_extend_ep": has_experts and storage.division is ExpertDivision.EXTENDED,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": layout.tp if storage.is_sliced else 1,
    }


def expert_fields(args: argparse.Namespace, num_layers: int, file: object) -> dict[str, Any]:
    """The fields of `ModelConfig` about experts that stored args have; empty for dense models.

    Args:
        args: The stored args.
        num_layers: Layers of the model.
        file: For messages.

    Raises:
        WeightsError: A field that decides which experts compute a token is missing.
    """
    if not getattr(args, "num_experts", None):
        return {}
    stored = {field: _first(args, (field, *others)) for field, others in _FIELDS.items()}
    values = {field: value for field, value in stored.items() if value is not None}
    if "moe_router_topk" not in values:
        raise WeightsError(f"{file}: args lack moe_router_topk; give the model's Hugging Face folder (--hf-cfg-dir)")
    if (
        values.get("moe_router_score_function", "softmax") == "softmax"
        and _first(args, ("moe_router_pre_softmax",)) is False
    ):
        values["norm_topk_prob"] = True
    num_experts = sizes_from_args(args, file).num_experts
    return {"num_experts": num_experts, **values, **_layer_fields(args, num_layers, file)}


def _first(args: argparse.Namespace, names: tuple[str, ...]) -> Any:
    return next((value for name in names if (value := getattr(args, name, None)) is not None), None)


def _layer_freq(model: ModelConfig) -> int | list[int]:
    """Megatron's `moe_layer_freq`: a number, or for each layer whether it has experts."""
    if not model.mlp_only_layers:
        return model.moe_layer_freq
    return [int(model.is_moe_layer(layer)) for layer in range(model.num_layers)]


def _layer_fields(args: argparse.Namespace, num_layers: int, file: object) -> dict[str, Any]:
    """The layers with experts, from a number or a list for all layers."""
    freq = getattr(args, "moe_layer_freq", None)
    if freq is None:
        return {}
    if type(freq) is int:
        return {"moe_layer_freq": freq}
    if not isinstance(freq, (list, tuple)) or len(freq) != num_layers or not set(freq) <= {0, 1}:
        raise WeightsError(
            f"{file}: args have moe_layer_freq={reprlib.repr(freq)}, expected a number or a list of {num_layers} "
            "times 0 or 1; give the model's Hugging Face folder (--hf-cfg-dir)"
        )
    return {"mlp_only_layers": tuple(layer for layer, has_experts in enumerate(freq) if not has_experts)}
