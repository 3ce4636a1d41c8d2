"""Qwen1.5, Qwen2 and Qwen2.5, dense: Llama with biases on query, key and value."""

from __future__ import annotations

from mindspeed_dpo.weights.families.llama import LLAMA
from mindspeed_dpo.weights.families.model_family import HfArchitecture, ModelFamily
from mindspeed_dpo.weights.name_mapping import RuleTable, layer_rule
from mindspeed_dpo.weights.tensor_layouts import Qkv

QKV_BIAS_RULES: RuleTable = (
    layer_rule(
        "self_attention.linear_qkv.bias",
        ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
        Qkv(bias=True),
        requires="add_qkv_bias",
    ),
)

QWEN2 = ModelFamily(
    name="qwen2",
    architectures=(HfArchitecture("qwen2", "Qwen2ForCausalLM", windowed_layers="by_layer_type"),),
    # MindSpeed-LLM's guides convert Qwen2 as llama2 with --add-qkv-bias.
    converter_names=("llama2", "qwen2", "qwen25"),
    add_qkv_bias=True,
    rules=LLAMA.rules + QKV_BIAS_RULES,
)
