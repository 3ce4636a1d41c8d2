"""Fields of `ModelConfig` about experts that are no single key of config.json; `hf_config` has the others."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.weights.families.model_family import ModelFamily
from mindspeed_dpo.weights.hf.hf_config_defaults import HfValues


def expert_fields(values: HfValues, family: ModelFamily) -> dict[str, Any]:
    """Derive the fields, and reject what changes the routing and is not implemented; empty for dense families.

    Raises:
        HfConfigError: A key asks for something that is not supported.
    """
    if family.experts is None:
        return {}
    if "router_jitter_noise" in values.declared and values.get("router_jitter_noise"):
        raise values.unsupported(values.source_of("router_jitter_noise"), "0.0")
    if "qkv_bias" in values.declared and not values.get("qkv_bias"):
        raise values.unsupported(values.source_of("qkv_bias"), "true")
    return {"mlp_only_layers": _dense_layers(values)} if family.experts.has_step else {}


def _dense_layers(values: HfValues) -> tuple[int, ...]:
    """Layer i has experts if i + 1 is a multiple of `decoder_sparse_step` and i is not in `mlp_only_layers`."""
    step, listed = values.get("decoder_sparse_step"), set(values.get("mlp_only_layers") or ())
    layers = range(values.get("num_hidden_layers"))
    return tuple(layer for layer in layers if layer in listed or (layer + 1) % step)
