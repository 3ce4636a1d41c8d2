"""The declaration of a model family: its classes in transformers, its traits, and the rules of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.families.hf_config_keys import DENSE_FIELDS, EXPERT_TRAIT_KEYS, TRAIT_KEYS, HfKey
from mindspeed_dpo.weights.name_mapping import RuleTable

WindowedLayers = Literal["none", "all", "by_layer_type"]


@dataclass(frozen=True)
class HfArchitecture:
    """A `model_type` of config.json that belongs to a family.

    Attributes:
        model_type: The value in config.json.
        causal_lm: The class of the language model in transformers.
        windowed_layers: The layers to which `sliding_window` applies: none, all, or with `use_sliding_window` those
            that `layer_types` or `max_window_layers` name.
    """

    model_type: str
    causal_lm: str
    windowed_layers: WindowedLayers = "none"

    @property
    def classifier(self) -> str:
        """The class of the reward model in transformers."""
        return self.causal_lm.replace("ForCausalLM", "ForSequenceClassification")


@dataclass(frozen=True, kw_only=True)
class ExpertTraits:
    """The traits that the models of a family with experts have in common, beyond the keys of config.json.

    Attributes:
        has_step: Whether `decoder_sparse_step` and `mlp_only_layers` say which layers have experts.
        fixed: Settings of `ModelConfig` that all models of the family have.
    """

    has_step: bool = False
    fixed: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """Models whose tensors have the same names and layouts.

    Attributes:
        name: Name of the family.
        architectures: The model types of transformers that belong to it.
        converter_names: Values of MindSpeed-LLM's `--model-type-hf` that stand for it.
        add_qkv_bias: Whether the query, key and value projections have biases; None where it depends on the model.
        qk_layernorm: Whether each query and key head is normalised; None where it depends on the model.
        experts: The traits of its experts; None for dense models.
        has_partial_rotary: Whether `partial_rotary_factor` may be less than 1.
        num_mtp_layers: The key of the number of layers that predict further tokens; None where there are none.
        rules: The tensors of its language models.
        fields: Field of `ModelConfig` -> key of config.json. Values that config.json lacks are those of transformers'
            config class.
    """

    name: str
    architectures: tuple[HfArchitecture, ...]
    converter_names: tuple[str, ...]
    add_qkv_bias: bool | None = False
    qk_layernorm: bool | None = False
    experts: ExpertTraits | None = None
    has_partial_rotary: bool = False
    num_mtp_layers: HfKey | None = None
    rules: RuleTable
    fields: Mapping[str, HfKey] = field(default_factory=lambda: DENSE_FIELDS)

    @property
    def trait_keys(self) -> tuple[HfKey, ...]:
        """Keys of config.json that determine further fields, or select what may not be supported."""
        return TRAIT_KEYS if self.experts is None else (*TRAIT_KEYS, *EXPERT_TRAIT_KEYS)

    @property
    def fixed_fields(self) -> dict[str, Any]:
        """Fields of `ModelConfig` that all models of the family have."""
        traits = {"add_qkv_bias": self.add_qkv_bias, "qk_layernorm": self.qk_layernorm}
        fixed = {name: value for name, value in traits.items() if value is not None}
        return {**fixed, **(self.experts.fixed if self.experts else {})}

    def has_traits_of(self, model: ModelConfig) -> bool:
        """Whether models of this family have the biases, norms and kind of experts of the given model."""
        defaults = {} if self.experts is None else {"moe_router_score_function": "softmax", "shared_expert_gate": False}
        traits = {**defaults, **self.fixed_fields}
        return (self.experts is not None) == model.has_experts and all(
            getattr(model, name) == value for name, value in traits.items()
        )
