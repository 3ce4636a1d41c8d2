"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts and a shared expert behind a sigmoid gate."""

from __future__ import annotations

from mindspeed_dpo.weights.families.experts import QWEN_EXPERT_RULES, shared_expert_rules
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, MLP_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import HfArchitecture, HfExpertKeys, ModelFamily
from mindspeed_dpo.weights.families.qwen2 import QKV_BIAS_RULES
from mindspeed_dpo.weights.rules import layer_rule
from mindspeed_dpo.weights.tensor_layouts import Matrix, hidden_size

QWEN2_MOE = ModelFamily(
    name="qwen2_moe",
    architectures=(HfArchitecture("qwen2_moe", "Qwen2MoeForCausalLM", has_window=True, has_window_flag=True),),
    converter_names=("qwen2-moe", "qwen2_moe"),
    add_qkv_bias=True,
    experts=HfExpertKeys(
        num_experts=("num_experts", "num_local_experts"),
        width="moe_intermediate_size",
        shared_width="shared_expert_intermediate_size",
        has_step=True,
        fixed={"shared_expert_gate": True},
    ),
    rules=(
        *EMBEDDING_RULES,
        *ATTENTION_RULES,
        *QKV_BIAS_RULES,
        *QWEN_EXPERT_RULES,
        *shared_expert_rules("shared_expert"),
        layer_rule(
            "mlp.shared_experts.gate_weight",
            "mlp.shared_expert_gate.weight",
            Matrix(1, hidden_size),
            where="moe_layer",
            aliases=("mlp.shared_expert_gate.weight",),
        ),
        *MLP_RULES,
        *OUTPUT_RULES,
    ),
)
