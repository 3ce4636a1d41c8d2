"""What a model family declares about itself: its classes in transformers, its traits, and the rules of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.rules import RuleTable


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
class HfExpertKeys:
    """How config.json of a family describes its experts; `weights.hf_experts` reads it.

    Attributes:
        num_experts: Names of the number of routed experts; releases of transformers differ.
        width: Name of the width of a routed expert.
        shared_width: Name of the width of the shared experts; "" where their number is given as `n_shared_experts`, or
            where there are none.
        has_step: Whether `decoder_sparse_step` and `mlp_only_layers` say which layers have experts.
        has_groups: Whether there are the keys of DeepSeek-V3: `n_group`, `topk_group`, `routed_scaling_factor`,
            `n_shared_experts` and `first_k_dense_replace`.
        default_rotary_percent: Rotated share of a head where `partial_rotary_factor` is absent.
        fixed: Settings of `ModelConfig` that all models of the family have.
    """

    num_experts: tuple[str, ...]
    width: str
    shared_width: str = ""
    has_step: bool = False
    has_groups: bool = False
    default_rotary_percent: float = 1.0
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
        experts: How config.json describes its experts; None for dense models.
        rules: The tensors of its language models.
    """

    name: str
    architectures: tuple[HfArchitecture, ...]
    converter_names: tuple[str, ...]
    add_qkv_bias: bool | None = False
    qk_layernorm: bool | None = False
    experts: HfExpertKeys | None = None
    rules: RuleTable

    def has_traits_of(self, model: ModelConfig) -> bool:
        """Whether models of this family have the biases, norms and kind of experts of the given model."""
        fixed = {"moe_router_score_function": "softmax", "shared_expert_gate": False}
        traits: dict[str, object] = {"add_qkv_bias": self.add_qkv_bias, "qk_layernorm": self.qk_layernorm}
        if self.experts is not None:
            traits |= {**fixed, **self.experts.fixed}
        return (self.experts is not None) == model.has_experts and all(
            value is None or getattr(model, name) == value for name, value in traits.items()
        )
