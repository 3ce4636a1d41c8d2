"""What a model family declares about itself: its classes in transformers, its traits, and the rules of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.families.hf_key import DENSE_FIELDS, HfKey
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
class ModelFamily:
    """Models whose tensors have the same names and layouts.

    Attributes:
        name: Name of the family.
        architectures: The model types of transformers that belong to it.
        converter_names: Values of MindSpeed-LLM's `--model-type-hf` that stand for it.
        add_qkv_bias: Whether the query, key and value projections have biases.
        qk_layernorm: Whether each query and key head is normalised.
        rules: The tensors of its language models.
        fields: Field of `ModelConfig` -> key of config.json. Values that config.json lacks are those of transformers'
            config class.
    """

    name: str
    architectures: tuple[HfArchitecture, ...]
    converter_names: tuple[str, ...]
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    rules: RuleTable
    fields: Mapping[str, HfKey] = field(default_factory=lambda: DENSE_FIELDS)

    def has_traits_of(self, model: ModelConfig) -> bool:
        """Whether models of this family have the biases and norms of the given model."""
        return (self.add_qkv_bias, self.qk_layernorm) == (model.add_qkv_bias, model.qk_layernorm)
