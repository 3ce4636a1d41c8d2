"""Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts and a shared expert behind a sigmoid gate."""

from __future__ import annotations

from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.weights.families.expert_tensors import QWEN_EXPERT_RULES, shared_expert_rules
from mindspeed_dpo.weights.families.hf_config_keys import EXPERT_FIELDS, HfKey, read_size
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, MLP_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import ExpertTraits, HfArchitecture, ModelFamily
from mindspeed_dpo.weights.families.qwen2 import QKV_BIAS_RULES
from mindspeed_dpo.weights.model_sizes import hidden_size
from mindspeed_dpo.weights.name_mapping import layer_rule
from mindspeed_dpo.weights.tensor_layouts import Matrix

QWEN2_MOE = ModelFamily(
    name="qwen2_moe",
    architectures=(HfArchitecture("qwen2_moe", "Qwen2MoeForCausalLM", windowed_layers="by_layer_type"),),
    converter_names=("qwen2-moe", "qwen2_moe"),
    add_qkv_bias=True,
    experts=ExpertTraits(has_step=True, fixed={"shared_expert_gate": True}),
    fields={
        **EXPERT_FIELDS,
        "norm_topk_prob": HfKey("norm_topk_prob", JsonObject.boolean),
        "moe_shared_expert_intermediate_size": HfKey("shared_expert_intermediate_size", read_size),
    },
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
