"""Translation of a Hugging Face config.json to `ModelConfig`.

Only models that are computed exactly are accepted. Anything else a config asks for (windows in some layers only,
partial rotary embeddings, other activations, quantised weights) is rejected. The supported `model_type`s and their
tensors are declared in `families`; building the model is left to `models`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.settings.experts import ExpertConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families import ARCHITECTURES, HfArchitecture, ModelFamily
from mindspeed_dpo.weights.hf_experts import expert_settings

HfConfig = Mapping[str, Any]

_ROPE_TYPES = "default, linear, llama3, yarn"
_YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_SCALING_FIELDS: dict[str | None, tuple[str, ...]] = {
    "linear": ("rope_scaling_factor",),
    "yarn": ("rope_scaling_factor", "original_max_position_embeddings"),
    "llama3": ("rope_scaling_factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_COMPARED_FIELDS = (
    "num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size",
    "vocab_size", "untie_embeddings_and_output_weights", "rotary_base", "rope_scaling_type", "norm_epsilon",
    "add_qkv_bias", "qk_layernorm", "sliding_window", "rotary_percent", "num_experts",
)  # fmt: skip
_EXPERT_FIELDS = tuple(
    item.name for item in dataclasses.fields(ExpertConfig) if item.name not in ("num_experts", "n_shared_experts")
)


def read_hf_config(directory: str | Path) -> dict[str, Any]:
    """Read `config.json` of a Hugging Face folder.

    Raises:
        FileNotFoundError: The folder has no config.json.
        HfConfigError: The file is not a JSON object.
    """
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a Hugging Face folder needs its config.json")
    try:
        hf = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HfConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(hf, dict):
        raise HfConfigError(f"{path} must hold a JSON object, got {type(hf).__name__}")
    return hf


def is_reward_config(hf: HfConfig) -> bool:
    """Whether a config is that of a reward model, a classifier with one label.

    Raises:
        HfConfigError: The model type or its head is not supported.
    """
    _, architecture = _find_architecture(hf)
    return architecture.causal_lm not in (hf.get("architectures") or [architecture.causal_lm])


def as_reward_config(hf: HfConfig) -> dict[str, Any]:
    """The config of the reward model of the same size; the config of a reward model is returned unchanged.

    Raises:
        HfConfigError: The model type or its head is not supported.
    """
    if is_reward_config(hf):
        return dict(hf)
    _, architecture = _find_architecture(hf)
    label = "LABEL_0"
    return {**hf, "architectures": [architecture.classifier], "id2label": {"0": label}, "label2id": {label: 0}}


def num_labels(hf: HfConfig) -> int:
    """Number of labels of a classifier; transformers defaults to two."""
    return len(hf["id2label"]) if hf.get("id2label") is not None else int(hf.get("num_labels", 2))


def model_config_from_hf(hf: HfConfig) -> ModelConfig:
    """Translate a Hugging Face config to the model settings.

    The vocabulary is the unpadded one; padding is to the next multiple of the tensor-parallel size.

    Args:
        hf: The content of config.json, in the form of transformers 4 or 5.

    Raises:
        HfConfigError: A key is missing, or asks for something that is not supported.
    """
    family, architecture = _find_architecture(hf)
    _reject_unsupported(hf, family)
    heads, hidden = int(_required(hf, "num_attention_heads")), int(_required(hf, "hidden_size"))
    rope = _rope(hf, family)
    experts = expert_settings(hf, family)
    return ModelConfig(
        num_layers=int(_required(hf, "num_hidden_layers")),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=int(hf.get("num_key_value_heads") or heads),
        kv_channels=_head_dim(hf, hidden, heads),
        ffn_hidden_size=int(_required(hf, "intermediate_size")),
        vocab_size=int(_required(hf, "vocab_size")),
        make_vocab_size_divisible_by=1,
        padded_vocab_size=None,
        untie_embeddings_and_output_weights=not hf.get("tie_word_embeddings", False),
        max_position_embeddings=int(_required(hf, "max_position_embeddings")),
        rotary_base=float(rope.get("rope_theta") or 10000.0),
        norm_epsilon=float(_required(hf, "rms_norm_eps")),
        sliding_window=_sliding_window(hf, architecture),
        init_method_std=float(hf.get("initializer_range", 0.02)),
        **_rope_scaling(hf, rope),
        **{"add_qkv_bias": family.add_qkv_bias, "qk_layernorm": family.qk_layernorm, **experts},
    )


def describe_differences(model: ModelConfig, hf: ModelConfig, *, reward: bool = False) -> list[str]:
    """Describe each field in which the model section and the weights' config differ.

    Only fields that change shapes or results are compared: `max_position_embeddings` is a bound, vocabulary padding and
    initialisation may differ.

    Args:
        model: The model section of the YAML.
        hf: The model of the weights' config.
        reward: Whether both are reward models, which have no output layer to be tied.
    """
    experts = _EXPERT_FIELDS if model.has_experts and hf.has_experts else ()
    compared = (*_COMPARED_FIELDS, *experts, *_SCALING_FIELDS.get(hf.rope_scaling_type, ()))
    fields = [name for name in compared if not (reward and name == "untie_embeddings_and_output_weights")]
    return [
        f"{name} is {getattr(model, name)} in the model section, but {getattr(hf, name)} in the weights' config"
        for name in fields
        if getattr(model, name) != getattr(hf, name)
    ]


def _find_architecture(hf: HfConfig) -> tuple[ModelFamily, HfArchitecture]:
    """The family and architecture of a config; a classifier must have one label."""
    model_type = hf.get("model_type")
    if model_type not in ARCHITECTURES:
        nearest = difflib.get_close_matches(str(model_type), ARCHITECTURES, n=1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        supported = ", ".join(ARCHITECTURES)
        raise HfConfigError(f"model_type {model_type!r} of config.json is not supported{hint}; supported: {supported}")
    family, architecture = ARCHITECTURES[model_type]
    heads = hf.get("architectures") or [architecture.causal_lm]
    if architecture.causal_lm not in heads and architecture.classifier not in heads:
        raise HfConfigError(
            f"architectures {heads} of config.json are not supported; expected {architecture.causal_lm}, or "
            f"{architecture.classifier} for a reward model"
        )
    if architecture.causal_lm not in heads and num_labels(hf) != 1:
        raise HfConfigError(
            f"config.json describes a classifier of {num_labels(hf)} labels; a reward model has num_labels 1"
        )
    return family, architecture


def _required(hf: HfConfig, key: str) -> Any:
    """The value of a key without which the model is not defined."""
    if hf.get(key) is None:
        raise HfConfigError(f"config.json has no {key}; it has no default, so add it")
    return hf[key]


def _head_dim(hf: HfConfig, hidden: int, heads: int) -> int:
    """The value of `head_dim` where given, as that of Qwen3 is not hidden_size / num_attention_heads."""
    if hf.get("head_dim") is not None:
        return int(hf["head_dim"])
    if hidden % heads:
        raise HfConfigError(f"hidden_size={hidden} does not divide by num_attention_heads={heads}; add head_dim")
    return hidden // heads


def _reject_unsupported(hf: HfConfig, family: ModelFamily) -> None:
    """Reject keys that change the model's results and are not implemented."""
    is_dense = family.experts is None
    unsupported = {
        "hidden_act": (hf.get("hidden_act", "silu") not in ("silu", "swish"), "silu"),
        "attention_bias": (
            bool(hf.get("attention_bias")) and family.add_qkv_bias is not None,
            "false (the query, key and value biases of Qwen2 are implied)",
        ),
        "mlp_bias": (bool(hf.get("mlp_bias")), "false"),
        "partial_rotary_factor": (is_dense and float(hf.get("partial_rotary_factor") or 1.0) != 1.0, "1.0"),
        "quantization_config": (hf.get("quantization_config") is not None, "none: store the weights unquantised"),
        "num_experts": (
            is_dense and bool(hf.get("num_experts") or hf.get("num_local_experts")),
            "none: a dense model",
        ),
    }
    for key, (is_set, supported) in unsupported.items():
        if is_set:
            raise HfConfigError(f"{key}={hf.get(key)!r} of config.json is not supported; supported: {supported}")


def _sliding_window(hf: HfConfig, architecture: HfArchitecture) -> int | None:
    """The attention window of all layers, or None where it never shortens a sequence.

    Raises:
        HfConfigError: Only some layers use the window.
    """
    window = hf.get("sliding_window")
    if window is None or (architecture.has_window_flag and not hf.get("use_sliding_window", False)):
        window = None
    layers = int(_required(hf, "num_hidden_layers"))
    first = int(hf.get("max_window_layers") or 0) if architecture.has_window_flag else 0
    default = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    layer_types = hf.get("layer_types") or (default if window is not None else [])
    if "sliding_attention" not in layer_types:
        return None
    in_all_layers = architecture.has_window and set(layer_types) == {"sliding_attention"}
    if window is None or (not in_all_layers and _is_shorter(window, hf)):
        raise HfConfigError(
            f"sliding_window={hf.get('sliding_window')} of config.json is supported only for every layer of Mistral, "
            "Qwen2 and Qwen3; if none of your sequences is longer than the window, set it to null"
        )
    return int(window) if _is_shorter(window, hf) else None


def _is_shorter(window: int, hf: HfConfig) -> bool:
    return int(window) < int(_required(hf, "max_position_embeddings"))


def _rope(hf: HfConfig, family: ModelFamily) -> dict[str, Any]:
    """The rotary settings in one form: transformers 5 nests the base, transformers 4 has two keys."""
    rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise HfConfigError("rope_parameters differ by layer type in config.json, which is not supported")
    rope.setdefault("rope_theta", hf.get("rope_theta"))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if family.experts is None and float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise HfConfigError("partial_rotary_factor of config.json is not supported; supported: 1.0")
    return rope


def _rope_scaling(hf: HfConfig, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The rope_scaling fields of ModelConfig; empty for unscaled rotary embeddings."""
    rope_type = rope["rope_type"]
    if rope_type == "default":
        return {}
    if rope_type not in _SCALING_FIELDS:
        raise HfConfigError(f"rope type {rope_type!r} of config.json is not supported; supported: {_ROPE_TYPES}")
    values = {"rope_scaling_factor": rope.get("factor"), **rope}
    if rope_type == "yarn":
        _check_yarn_defaults(rope)
        values.setdefault("original_max_position_embeddings", hf.get("max_position_embeddings"))
    fields: dict[str, Any] = {"rope_scaling_type": rope_type}
    for name in _SCALING_FIELDS[rope_type]:
        if values.get(name) is None:
            raise HfConfigError(f"rope type {rope_type} of config.json lacks {name.removeprefix('rope_scaling_')}")
        fields[name] = int(values[name]) if name == "original_max_position_embeddings" else float(values[name])
    return fields


def _check_yarn_defaults(rope: Mapping[str, Any]) -> None:
    """Check that yarn is configured by its factor and original length only."""
    for key, default in _YARN_DEFAULTS.items():
        if rope.get(key) not in (None, default):
            raise HfConfigError(f"yarn with {key}={rope[key]} is not supported; supported: {default}")
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if rope.get(key) is not None:
            raise HfConfigError(f"yarn with {key}={rope[key]} is not supported; remove the key")
