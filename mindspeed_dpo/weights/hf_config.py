"""From a Hugging Face config.json to ModelConfig, and the table of model families known here.

Only families whose every detail is computed exactly are let through: whatever else a config asks for
(windows of some layers only, partial rotary, other activations, quantised weights) is refused with a sentence.
Which tensors a family has is the matter of `weights/families`; building the model is left to `models`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.settings.model import ModelConfig

HfConfig = Mapping[str, Any]


class HfConfigError(ValueError):
    """A config.json asks for something that is not supported, or lacks something that is needed."""


@dataclass(frozen=True)
class Architecture:
    """One row of the families table.

    Attributes:
        family: Name of the table of weight rules, in `weights/families`.
        causal_lm: The Hugging Face class of the model.
        add_qkv_bias: Query, key and value projections carry a bias.
        qk_layernorm: Each query and key head is normalised.
        flagged_window: `sliding_window` counts only with `use_sliding_window`.
    """

    family: str
    causal_lm: str
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    has_window: bool = False
    flagged_window: bool = False

    @property
    def classifier(self) -> str:
        """The Hugging Face class of the family's reward models."""
        return self.causal_lm.replace("ForCausalLM", "ForSequenceClassification")


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM"),
    "mistral": Architecture("llama", "MistralForCausalLM", has_window=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", add_qkv_bias=True, has_window=True, flagged_window=True),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", qk_layernorm=True, has_window=True, flagged_window=True),
}
"""Keyed by `model_type`. Llama 2 to 3.3 and Yi are `llama`, Qwen1.5 to Qwen2.5 are `qwen2`."""

_YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_ROPE_TYPES = "default, linear, llama3, yarn"
_SAME_AS_WEIGHTS = (
    "num_layers", "hidden_size", "num_attention_heads", "num_query_groups", "kv_channels", "ffn_hidden_size",
    "vocab_size", "untie_embeddings_and_output_weights", "rotary_base", "rope_scaling_type", "norm_epsilon",
    "add_qkv_bias", "qk_layernorm", "sliding_window",
)  # fmt: skip
_SCALING_FIELDS: dict[str | None, tuple[str, ...]] = {
    "linear": ("rope_scaling_factor",),
    "yarn": ("rope_scaling_factor", "original_max_position_embeddings"),
    "llama3": ("rope_scaling_factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


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


def architecture_of(hf: HfConfig) -> Architecture:
    """The row of the families table for a config.

    Raises:
        HfConfigError: The model type or its head is not supported; a classifier must have one label.
    """
    known = ", ".join(ARCHITECTURES)
    model_type = hf.get("model_type")
    if model_type not in ARCHITECTURES:
        near = difflib.get_close_matches(str(model_type), ARCHITECTURES, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise HfConfigError(f"model_type {model_type!r} of config.json is not supported{hint}; supported: {known}")
    row = ARCHITECTURES[model_type]
    heads = hf.get("architectures") or [row.causal_lm]
    if row.causal_lm not in heads and row.classifier not in heads:
        raise HfConfigError(
            f"architectures {heads} of config.json are not supported; expected {row.causal_lm}, or {row.classifier} "
            "for a reward model"
        )
    if row.causal_lm not in heads and num_labels(hf) != 1:
        raise HfConfigError(
            f"config.json describes a classifier of {num_labels(hf)} labels; a reward model has num_labels 1"
        )
    return row


def is_reward_config(hf: HfConfig) -> bool:
    """Whether a config is that of a reward model: a classifier with one label.

    Raises:
        HfConfigError: See `architecture_of`.
    """
    row = architecture_of(hf)
    return row.causal_lm not in (hf.get("architectures") or [row.causal_lm])


def as_reward_config(hf: HfConfig) -> dict[str, Any]:
    """The same model as a reward model; a config that is one already stays as it is."""
    if is_reward_config(hf):
        return dict(hf)
    label = "LABEL_0"
    return {
        **hf,
        "architectures": [architecture_of(hf).classifier],
        "id2label": {"0": label},
        "label2id": {label: 0},
    }


def num_labels(hf: HfConfig) -> int:
    """Labels of a classifier; a config that does not say has two, as transformers has it."""
    return len(hf["id2label"]) if hf.get("id2label") is not None else int(hf.get("num_labels", 2))


def hf_family(hf: HfConfig) -> str:
    """Name of the family of weight rules: llama, qwen2 or qwen3."""
    return architecture_of(hf).family


def family_of(model: ModelConfig) -> str:
    """The family whose weights have the biases and norms of this model.

    Raises:
        HfConfigError: No family has this combination.
    """
    for row in ARCHITECTURES.values():
        if (row.add_qkv_bias, row.qk_layernorm) == (model.add_qkv_bias, model.qk_layernorm):
            return row.family
    raise HfConfigError(
        f"no supported family has add_qkv_bias={model.add_qkv_bias} together with qk_layernorm={model.qk_layernorm}; "
        "llama and mistral have neither, qwen2 has the first, qwen3 the second"
    )


def hf_dtype(hf: HfConfig) -> str | None:
    """Name of the data type the config states, such as "bfloat16"; transformers 5 calls the key `dtype`."""
    name = hf.get("dtype") or hf.get("torch_dtype")
    return None if name is None else str(name).removeprefix("torch.")


def model_config_from_hf(hf: HfConfig) -> ModelConfig:
    """Translate a Hugging Face config into the project's model description.

    The vocabulary is the true one and is padded to the next multiple of the tensor-parallel size only.

    Args:
        hf: The content of config.json, in the form of transformers 4 or 5.

    Raises:
        HfConfigError: A key is missing, or asks for something that is not supported.
    """
    row = architecture_of(hf)
    _refuse_unsupported(hf, row)
    heads, hidden = int(_need(hf, "num_attention_heads")), int(_need(hf, "hidden_size"))
    rope = _rope(hf)
    return ModelConfig(
        num_layers=int(_need(hf, "num_hidden_layers")),
        hidden_size=hidden,
        num_attention_heads=heads,
        num_query_groups=int(hf.get("num_key_value_heads") or heads),
        kv_channels=_head_dim(hf, hidden, heads),
        ffn_hidden_size=int(_need(hf, "intermediate_size")),
        vocab_size=int(_need(hf, "vocab_size")),
        make_vocab_size_divisible_by=1,
        padded_vocab_size=None,
        untie_embeddings_and_output_weights=not hf.get("tie_word_embeddings", False),
        max_position_embeddings=int(_need(hf, "max_position_embeddings")),
        rotary_base=float(rope.get("rope_theta") or 10000.0),
        norm_epsilon=float(_need(hf, "rms_norm_eps")),
        add_qkv_bias=row.add_qkv_bias,
        qk_layernorm=row.qk_layernorm,
        sliding_window=_sliding_window(hf, row),
        init_method_std=float(hf.get("initializer_range", 0.02)),
        **_scaling(hf, rope),
    )


def describe_differences(model: ModelConfig, hf: ModelConfig, *, reward: bool = False) -> list[str]:
    """One sentence for each field in which a YAML model section and the weights' config disagree.

    Only what changes shapes or results is compared: `max_position_embeddings` is a bound, the padding and
    the initialisation are free.

    Args:
        model: The YAML's model.
        hf: The model of the weights' config.
        reward: Whether both are reward models, which have no output layer that could be tied.
    """
    compared = (*_SAME_AS_WEIGHTS, *_SCALING_FIELDS.get(hf.rope_scaling_type, ()))
    fields = [name for name in compared if not (reward and name == "untie_embeddings_and_output_weights")]
    return [
        f"{name} is {getattr(model, name)} in the model section, but {getattr(hf, name)} in the weights' config"
        for name in fields
        if getattr(model, name) != getattr(hf, name)
    ]


def _need(hf: HfConfig, key: str) -> Any:
    """The value of a key without which the model is not defined."""
    if hf.get(key) is None:
        raise HfConfigError(f"config.json has no {key}; it cannot be guessed, so add it")
    return hf[key]


def _head_dim(hf: HfConfig, hidden: int, heads: int) -> int:
    """`head_dim` where given, because Qwen3's differs from hidden_size / num_attention_heads."""
    if hf.get("head_dim") is not None:
        return int(hf["head_dim"])
    if hidden % heads:
        raise HfConfigError(f"hidden_size={hidden} does not divide by num_attention_heads={heads}; add head_dim")
    return hidden // heads


def _refuse_unsupported(hf: HfConfig, row: Architecture) -> None:
    """Refuse what would change the model's results and is not computed here."""
    wishes = {
        "hidden_act": (hf.get("hidden_act", "silu") not in ("silu", "swish"), "silu"),
        "attention_bias": (bool(hf.get("attention_bias")), "false (query, key and value biases of Qwen2 are built in)"),
        "mlp_bias": (bool(hf.get("mlp_bias")), "false"),
        "partial_rotary_factor": (float(hf.get("partial_rotary_factor") or 1.0) != 1.0, "1.0"),
        "quantization_config": (hf.get("quantization_config") is not None, "none: store the weights unquantised"),
        "num_experts": (bool(hf.get("num_experts") or hf.get("num_local_experts")), "none: a dense model"),
    }
    for key, (refused, supported) in wishes.items():
        if refused:
            raise HfConfigError(f"{key}={hf.get(key)!r} of config.json is not supported; supported: {supported}")


def _sliding_window(hf: HfConfig, row: Architecture) -> int | None:
    """The window through which every layer attends, or None where it never shortens a sequence.

    Raises:
        HfConfigError: Some layers attend through it and others do not.
    """
    window = hf.get("sliding_window")
    if window is None or (row.flagged_window and not hf.get("use_sliding_window", False)):
        window = None
    layers = int(_need(hf, "num_hidden_layers"))
    first = int(hf.get("max_window_layers") or 0) if row.flagged_window else 0
    default = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    kinds = hf.get("layer_types") or (default if window is not None else [])
    if "sliding_attention" not in kinds:
        return None
    everywhere = row.has_window and set(kinds) == {"sliding_attention"}
    if window is None or (not everywhere and _is_shorter(window, hf)):
        raise HfConfigError(
            f"sliding_window={hf.get('sliding_window')} of config.json is supported only for every layer of Mistral, "
            "Qwen2 and Qwen3; if no sequence of yours is longer than the window, set it to null"
        )
    return int(window) if _is_shorter(window, hf) else None


def _is_shorter(window: int, hf: HfConfig) -> bool:
    return int(window) < int(_need(hf, "max_position_embeddings"))


def _rope(hf: HfConfig) -> dict[str, Any]:
    """Rotary settings in one form: transformers 5 nests the base, transformers 4 kept two keys."""
    rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise HfConfigError("rope_parameters differ by layer type in config.json, which is not supported")
    rope.setdefault("rope_theta", hf.get("rope_theta"))
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    if float(rope.get("partial_rotary_factor") or 1.0) != 1.0:
        raise HfConfigError("partial_rotary_factor of config.json is not supported; supported: 1.0")
    return rope


def _scaling(hf: HfConfig, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The rope_scaling fields of ModelConfig; empty for plain rotary embeddings."""
    kind = rope["rope_type"]
    if kind == "default":
        return {}
    if kind not in _SCALING_FIELDS:
        raise HfConfigError(f"rope type {kind!r} of config.json is not supported; supported: {_ROPE_TYPES}")
    values = {"rope_scaling_factor": rope.get("factor"), **rope}
    if kind == "yarn":
        _refuse_unusual_yarn(rope)
        values.setdefault("original_max_position_embeddings", hf.get("max_position_embeddings"))
    fields: dict[str, Any] = {"rope_scaling_type": kind}
    for name in _SCALING_FIELDS[kind]:
        if values.get(name) is None:
            raise HfConfigError(f"rope type {kind} of config.json lacks {name.removeprefix('rope_scaling_')}")
        fields[name] = int(values[name]) if name == "original_max_position_embeddings" else float(values[name])
    return fields


def _refuse_unusual_yarn(rope: Mapping[str, Any]) -> None:
    """Yarn is described by its factor and original length; its other knobs must be at their usual values."""
    for key, usual in _YARN_DEFAULTS.items():
        if rope.get(key) not in (None, usual):
            raise HfConfigError(f"yarn with {key}={rope[key]} is not supported; supported: {usual}")
    for key in ("attention_factor", "mscale", "mscale_all_dim"):
        if rope.get(key) is not None:
            raise HfConfigError(f"yarn with {key}={rope[key]} is not supported; leave it out")
