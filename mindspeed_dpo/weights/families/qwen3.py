"""Qwen3, dense: Llama with a norm on every query and key head."""

from __future__ import annotations

from mindspeed_dpo.weights.families.llama import HF, LLAMA, MCORE
from mindspeed_dpo.weights.layouts import Copy
from mindspeed_dpo.weights.rules import Rule, RuleTable

QWEN3: RuleTable = (
    *LLAMA,
    Rule(MCORE + "self_attention.q_layernorm.weight", (HF + "self_attn.q_norm.weight",), Copy("kv_channels")),
    Rule(MCORE + "self_attention.k_layernorm.weight", (HF + "self_attn.k_norm.weight",), Copy("kv_channels")),
)
