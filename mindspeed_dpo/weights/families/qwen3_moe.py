"""Qwen3 with experts: Qwen3's attention, and experts without a shared one."""

from __future__ import annotations

from mindspeed_dpo.weights.families.experts import QWEN_EXPERT_RULES
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, MLP_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import HfArchitecture, HfExpertKeys, ModelFamily
from mindspeed_dpo.weights.families.qwen3 import HEAD_NORM_RULES

QWEN3_MOE = ModelFamily(
    name="qwen3_moe",
    # Its window, where it is in use, is that of all layers; `max_window_layers` has no effect.
    architectures=(HfArchitecture("qwen3_moe", "Qwen3MoeForCausalLM", has_window_flag=True),),
    converter_names=("qwen3-moe", "qwen3_moe"),
    qk_layernorm=True,
    experts=HfExpertKeys(
        num_experts=("num_experts", "num_local_experts"), width="moe_intermediate_size", has_step=True
    ),
    rules=(*EMBEDDING_RULES, *ATTENTION_RULES, *HEAD_NORM_RULES, *QWEN_EXPERT_RULES, *MLP_RULES, *OUTPUT_RULES),
)
