"""What a model family declares about itself: its classes in transformers, its traits, and the rules of its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.name_mapping import RuleTable


@dataclass(frozen=True)
class HfArchitecture:
    """A `model_type` of config.json that belongs to a family.

    Attributes:
        model_type: The value in config.json.
        causal_lm: The class of the language model in transformers.
        has_window: Whether `sliding_window` of config.json is in use.
        has_window_flag: Whether `sliding_window` applies only with `use_sliding_window: true`.
    """

    model_type: str
    causal_lm: str
    has_window: bool = False
    has_window_flag: bool = False

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
    """

    name: str
    architectures: tuple[HfArchitecture, ...]
    converter_names: tuple[str, ...]
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
    rules: RuleTable

    def has_traits_of(self, model: ModelConfig) -> bool:
        """Whether models of this family have the biases and norms of the given model."""
        return (self.add_qkv_bias, self.qk_layernorm) == (model.add_qkv_bias, model.qk_layernorm)
