"""Qwen3, dense: Llama with a norm on every query and key head."""

from __future__ import annotations

from mindspeed_dpo.weights.families.llama import LLAMA
from mindspeed_dpo.weights.families.model_family import HfArchitecture, ModelFamily
from mindspeed_dpo.weights.name_mapping import layer_rule
from mindspeed_dpo.weights.tensor_layouts import Replicated, head_size

QWEN3 = ModelFamily(
    name="qwen3",
    architectures=(HfArchitecture("qwen3", "Qwen3ForCausalLM", windowed_layers="by_layer_type"),),
    converter_names=("qwen3",),
    qk_layernorm=True,
    rules=(
        *LLAMA.rules,
        layer_rule("self_attention.q_layernorm.weight", "self_attn.q_norm.weight", Replicated(head_size)),
        layer_rule("self_attention.k_layernorm.weight", "self_attn.k_norm.weight", Replicated(head_size)),
    ),
)
