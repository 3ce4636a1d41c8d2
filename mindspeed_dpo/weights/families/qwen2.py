"""Qwen1.5, Qwen2 and Qwen2.5, dense: Llama with biases on query, key and value."""

from __future__ import annotations

from mindspeed_dpo.weights.families.llama import HF, LLAMA, MCORE
from mindspeed_dpo.weights.layouts import Qkv
from mindspeed_dpo.weights.rules import Rule, RuleTable

QWEN2: RuleTable = (
    *LLAMA,
    Rule(
        MCORE + "self_attention.linear_qkv.bias",
        tuple(HF + f"self_attn.{name}_proj.bias" for name in "qkv"),
        Qkv(bias=True),
    ),
)
