"""Translation of the experts that a Hugging Face config.json describes; a part of `hf_config`.

Which keys a family uses is declared by its `HfExpertKeys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families.model_family import HfExpertKeys, ModelFamily

HfConfig = Mapping[str, Any]
_SCALED = {"n_group": "moe_router_num_groups", "topk_group": "moe_router_group_topk"}


def expert_settings(hf: HfConfig, family: ModelFamily) -> dict[str, Any]:
    """Read the settings of `ModelConfig` that describe experts and what depends on the model in such families.

    Args:
        hf: The content of config.json, in the form of transformers 4 or 5.
        family: Its family.

    Returns:
        Settings by name, without those that have their default; empty for a dense family.

    Raises:
        HfConfigError: A key is missing, or asks for something that is not supported.
    """
    keys = family.experts
    if keys is None:
        return {}
    settings: dict[str, Any] = {
        "num_experts": int(_first(hf, keys.num_experts)),
        "moe_router_topk": int(_first(hf, ("num_experts_per_tok",))),
        "moe_ffn_hidden_size": int(_first(hf, (keys.width,))),
        "norm_topk_prob": bool(hf.get("norm_topk_prob", False)),
        "rotary_percent": rotary_percent(hf, keys),
    }
    if keys.shared_width:
        settings["moe_shared_expert_intermediate_size"] = int(_first(hf, (keys.shared_width,)))
    settings |= _layers_with_step(hf) if keys.has_step else {}
    settings |= _groups(hf) if keys.has_groups else {}
    if float(hf.get("router_jitter_noise") or 0.0):
        raise HfConfigError(f"router_jitter_noise={hf['router_jitter_noise']} of config.json is not supported; set 0.0")
    return {**settings, **_attention(hf, family), **keys.fixed}


def rotary_percent(hf: HfConfig, keys: HfExpertKeys) -> float:
    """The rotated share of a head; transformers 5 nests it in `rope_parameters`."""
    nested = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    share = hf.get("partial_rotary_factor") or nested.get("partial_rotary_factor")
    return float(share or keys.default_rotary_percent)


def num_next_token_layers(hf: HfConfig) -> int:
    """Number of layers behind the model's own that predict further tokens; they are stored, and not trained here."""
    return int(hf.get("num_nextn_predict_layers") or hf.get("num_mtp_layers") or 0)


def _layers_with_step(hf: HfConfig) -> dict[str, Any]:
    """Layer i has experts if (i + 1) is a multiple of `decoder_sparse_step` and i is not in `mlp_only_layers`."""
    step, layers = int(hf.get("decoder_sparse_step") or 1), int(_first(hf, ("num_hidden_layers",)))
    dense = {int(layer) for layer in hf.get("mlp_only_layers") or ()}
    return {"mlp_only_layers": tuple(i for i in range(layers) if i in dense or (i + 1) % step)}


def _groups(hf: HfConfig) -> dict[str, Any]:
    return {
        "norm_topk_prob": bool(hf.get("norm_topk_prob", True)),
        "moe_router_topk_scaling_factor": float(hf.get("routed_scaling_factor") or 1.0),
        "first_k_dense_replace": int(_first(hf, ("first_k_dense_replace",))),
        "n_shared_experts": int(_first(hf, ("n_shared_experts",))),
        **{name: int(hf.get(key) or 1) for key, name in _SCALED.items()},
    }


def _attention(hf: HfConfig, family: ModelFamily) -> dict[str, Any]:
    """Biases and norms of attention where they are not the same in all models of a family."""
    traits = {"add_qkv_bias": bool(hf.get("attention_bias")), "qk_layernorm": bool(hf.get("use_qk_norm"))}
    return {name: value for name, value in traits.items() if getattr(family, name) is None}


def _first(hf: HfConfig, names: tuple[str, ...]) -> Any:
    """The value of the first of some keys that is set."""
    for name in names:
        if hf.get(name) is not None:
            return hf[name]
    raise HfConfigError(f"config.json has no {names[0]}; it has no default, so add it")
