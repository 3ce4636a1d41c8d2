"""Qwen3, dense: Llama with a norm on every query and key head."""

from __future__ import annotations

from mindspeed_dpo.weights.families.llama import LLAMA
from mindspeed_dpo.weights.families.model_family import HfArchitecture, ModelFamily
from mindspeed_dpo.weights.model_sizes import head_size
from mindspeed_dpo.weights.name_mapping import RuleTable, layer_rule
from mindspeed_dpo.weights.tensor_layouts import Replicated

HEAD_NORM_RULES: RuleTable = tuple(
    layer_rule(
        f"self_attention.{head}_layernorm.weight",
        f"self_attn.{head}_norm.weight",
        Replicated(head_size),
        requires="qk_layernorm",
    )
    for head in ("q", "k")
)

QWEN3 = ModelFamily(
    name="qwen3",
    architectures=(HfArchitecture("qwen3", "Qwen3ForCausalLM", windowed_layers="by_layer_type"),),
    converter_names=("qwen3",),
    qk_layernorm=True,
    rules=LLAMA.rules + HEAD_NORM_RULES,
)
