"""Translation of a Hugging Face config.json to `ModelConfig`.

Only models that are computed exactly are accepted. Anything else a config asks for (windows in some layers only,
partial rotary embeddings, other activations, quantised weights) is rejected. The supported `model_type`s and their
tensors are declared in `families`; building the model is left to `models`.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.config.settings.experts import ExpertConfig
from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.weights.errors import HfConfigError
from mindspeed_dpo.weights.families import ARCHITECTURES, HfArchitecture, ModelFamily
from mindspeed_dpo.weights.families.unsupported import UNSUPPORTED
from mindspeed_dpo.weights.hf.hf_config_defaults import HfValues
from mindspeed_dpo.weights.hf.hf_experts import expert_fields
from mindspeed_dpo.weights.hf.hf_rope import rotary_fields
from mindspeed_dpo.weights.hf.hf_sliding_window import sliding_window

HfConfig = Mapping[str, Any]

CONFIG_FILE = "config.json"
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


def read_hf_config(directory: str | Path) -> JsonObject:
    """Read `config.json` of a Hugging Face folder.

    Raises:
        FileNotFoundError: The folder has no config.json.
        HfConfigError: The file is not a JSON object.
    """
    path = Path(directory) / CONFIG_FILE
    with reraised_as(HfConfigError):
        if not has_file(path):
            raise FileNotFoundError(f"{path} does not exist; a Hugging Face folder needs its config.json")
        return read_json_object(path)


def read_model_config(directory: str | Path) -> ModelConfig:
    """Read the model settings from `config.json` of a Hugging Face folder.

    Raises:
        FileNotFoundError: The folder has no config.json.
        HfConfigError: A value has another type, or asks for something that is not supported.
    """
    return model_config_from_hf(read_hf_config(directory))


def is_reward_config(hf: HfConfig) -> bool:
    """Whether a config is that of a reward model, a classifier with one label.

    Raises:
        HfConfigError: The model type or its head is not supported.
    """
    with reraised_as(HfConfigError):
        config = _located(hf)
        _, architecture = _find_architecture(config)
        return architecture.causal_lm not in (config.texts("architectures", ()) or [architecture.causal_lm])


def as_reward_config(hf: HfConfig) -> dict[str, Any]:
    """The config of the reward model of the same size; the config of a reward model is returned unchanged.

    Raises:
        HfConfigError: The model type or its head is not supported.
    """
    if is_reward_config(hf):
        return dict(hf)
    _, architecture = _find_architecture(_located(hf))
    label = "LABEL_0"
    return {**hf, "architectures": [architecture.classifier], "id2label": {"0": label}, "label2id": {label: 0}}


def num_labels(hf: HfConfig) -> int:
    """Number of labels of a classifier; transformers defaults to two.

    Raises:
        HfConfigError: `id2label` is no object, or `num_labels` no number.
    """
    with reraised_as(HfConfigError):
        config = _located(hf)
        names = config.section("id2label", None)
        return config.integer("num_labels", 2, minimum=1) if names is None else len(names)


def model_config_from_hf(hf: HfConfig) -> ModelConfig:
    """Translate a Hugging Face config to the model settings.

    Values that the config lacks are those of transformers' config class of the family. The vocabulary is the unpadded
    one; padding is to the next multiple of the tensor-parallel size.

    Args:
        hf: The content of config.json, in the form of transformers 4 or 5.

    Raises:
        HfConfigError: A value has another type, or asks for something that is not supported.
    """
    with reraised_as(HfConfigError):
        config = _located(hf)
        family, architecture = _find_architecture(config)
        values = HfValues(config, architecture.model_type, (*family.fields.values(), *family.trait_keys))
        _reject_unsupported(config, values, family)
        fields = {name: values.get(key.name) for name, key in family.fields.items()}
        fields["kv_channels"] = _head_dim(values)
        _check_heads(values, fields["kv_channels"])
        share = values.default_rotary_share if family.has_partial_rotary else None
        return ModelConfig(
            **{**family.fixed_fields, **fields, **expert_fields(values, family)},
            make_vocab_size_divisible_by=1,
            padded_vocab_size=None,
            untie_embeddings_and_output_weights=not values.get("tie_word_embeddings"),
            sliding_window=sliding_window(values, architecture),
            **rotary_fields(config, values.default_rope_theta, fields["max_position_embeddings"], share),
        )


def num_mtp_layers(hf: HfConfig) -> int:
    """Number of layers behind the model's own that predict further tokens; they are stored, and not trained here.

    Raises:
        HfConfigError: The model type is not supported, or the number is no integer of at least 0.
    """
    with reraised_as(HfConfigError):
        config = _located(hf)
        family, architecture = _find_architecture(config)
        key = family.num_mtp_layers
        return 0 if key is None else HfValues(config, architecture.model_type, (key,)).get(key.name) or 0


def without_mtp_layers(hf: HfConfig) -> dict[str, Any]:
    """The config of a model that is stored without its layers that predict further tokens.

    Raises:
        HfConfigError: The model type is not supported.
    """
    with reraised_as(HfConfigError):
        key = _find_architecture(_located(hf))[0].num_mtp_layers
    return {name: 0 if key is not None and name in key.names else value for name, value in hf.items()}


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


def _located(hf: HfConfig) -> JsonObject:
    """A config with the path that its errors name; a plain mapping has none."""
    return hf if isinstance(hf, JsonObject) else JsonObject(dict(hf), CONFIG_FILE)


def _find_architecture(hf: JsonObject) -> tuple[ModelFamily, HfArchitecture]:
    """The family and architecture of a config; a classifier must have one label."""
    model_type = hf.text("model_type", None)
    if model_type is not None and model_type in UNSUPPORTED:
        raise HfConfigError(
            f"{hf.location}: model_type {model_type!r} is not supported: it needs {UNSUPPORTED[model_type]}, which is "
            f"not implemented; supported: {', '.join(ARCHITECTURES)}"
        )
    if model_type not in ARCHITECTURES:
        nearest = difflib.get_close_matches(str(model_type), ARCHITECTURES, n=1)
        hint = f" (nearest: {nearest[0]})" if nearest else ""
        supported = ", ".join(ARCHITECTURES)
        raise HfConfigError(f"{hf.location}: model_type {model_type!r} is not supported{hint}; supported: {supported}")
    family, architecture = ARCHITECTURES[model_type]
    heads = hf.texts("architectures", ()) or (architecture.causal_lm,)
    if architecture.causal_lm not in heads and architecture.classifier not in heads:
        raise HfConfigError(
            f"{hf.location}: architectures {list(heads)} are not supported; expected {architecture.causal_lm}, or "
            f"{architecture.classifier} for a reward model"
        )
    if architecture.causal_lm not in heads and num_labels(hf) != 1:
        raise HfConfigError(
            f"{hf.location} describes a classifier of {num_labels(hf)} labels; a reward model has num_labels 1"
        )
    return family, architecture


def _head_dim(values: HfValues) -> int:
    """The value of `head_dim` where there is one, as that of Qwen3 is not hidden_size / num_attention_heads."""
    head_dim, hidden, heads = (values.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if head_dim is None and "head_dim" in values.declared and not values.is_null_by_default("head_dim"):
        raise HfConfigError(f"{values.location}: head_dim is null; {values.class_name} needs a number, or no such key")
    if head_dim is None and hidden % heads:
        raise HfConfigError(
            f"{values.location}: {values.source_of('hidden_size')} does not divide by "
            f"{values.source_of('num_attention_heads')}; add head_dim"
        )
    return int(hidden // heads if head_dim is None else head_dim)


def _check_heads(values: HfValues, head_dim: int) -> None:
    heads, groups = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if heads % groups:
        raise HfConfigError(
            f"{values.location}: {values.source_of('num_attention_heads')} must be a multiple of "
            f"{values.source_of('num_key_value_heads')}"
        )
    if head_dim % 2:
        raise HfConfigError(f"{values.location}: head_dim={head_dim} must be even for rotary embeddings")


def _reject_unsupported(hf: JsonObject, values: HfValues, family: ModelFamily) -> None:
    """Reject keys that change the model's results and are not implemented."""
    if values.get("hidden_act") not in ("silu", "swish"):
        raise values.unsupported(values.source_of("hidden_act"), "silu")
    # Classes without these keys have the biases of their family, whatever the file says.
    fields = {key.name for key in family.fields.values()}
    for key in ("attention_bias", "mlp_bias"):
        if key in values.declared - fields and values.get(key):
            raise values.unsupported(values.source_of(key), "false")
    if hf.get("quantization_config") is not None:
        raise values.unsupported("quantization_config", "none: store the weights unquantised")
    for key in () if family.experts else ("num_experts", "num_local_experts"):
        if hf.integer(key, 0):
            raise values.unsupported(f"{key}={hf[key]}", "none: a dense model")
