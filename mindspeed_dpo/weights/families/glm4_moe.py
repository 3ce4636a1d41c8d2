"""GLM-4.5 and GLM-4.6: sigmoid scores, experts chosen with a correction bias, shared experts, half-rotated heads."""

from __future__ import annotations

from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.weights.families.expert_tensors import EXPERT_BIAS_RULES, QWEN_EXPERT_RULES, shared_expert_rules
from mindspeed_dpo.weights.families.hf_config_keys import (
    EXPERT_FIELDS,
    HfKey,
    read_count,
    read_num_experts,
    read_positive,
    read_size,
)
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, MLP_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import ExpertTraits, HfArchitecture, ModelFamily
from mindspeed_dpo.weights.families.qwen2 import QKV_BIAS_RULES
from mindspeed_dpo.weights.families.qwen3 import HEAD_NORM_RULES

GLM4_MOE = ModelFamily(
    name="glm4_moe",
    architectures=(HfArchitecture("glm4_moe", "Glm4MoeForCausalLM"),),
    converter_names=("glm4-moe", "glm4_moe", "glm45-moe"),
    # Both depend on the model: GLM-4.5-Air has no norms on heads, GLM-4.5 does.
    add_qkv_bias=None,
    qk_layernorm=None,
    experts=ExpertTraits(fixed={"moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True}),
    has_partial_rotary=True,
    num_mtp_layers=HfKey("num_nextn_predict_layers", read_count, aliases=("num_mtp_layers",)),
    fields={
        **EXPERT_FIELDS,
        "num_experts": HfKey("n_routed_experts", read_num_experts, aliases=("num_local_experts", "num_experts")),
        "norm_topk_prob": HfKey("norm_topk_prob", JsonObject.boolean),
        "moe_router_num_groups": HfKey("n_group", read_size),
        "moe_router_group_topk": HfKey("topk_group", read_size),
        "moe_router_topk_scaling_factor": HfKey("routed_scaling_factor", read_positive),
        "first_k_dense_replace": HfKey("first_k_dense_replace", read_count),
        "n_shared_experts": HfKey("n_shared_experts", read_count),
        "add_qkv_bias": HfKey("attention_bias", JsonObject.boolean),
        "qk_layernorm": HfKey("use_qk_norm", JsonObject.boolean),
    },
    rules=(
        *EMBEDDING_RULES,
        *ATTENTION_RULES,
        *QKV_BIAS_RULES,
        *HEAD_NORM_RULES,
        *QWEN_EXPERT_RULES,
        *EXPERT_BIAS_RULES,
        *shared_expert_rules("shared_experts"),
        *MLP_RULES,
        *OUTPUT_RULES,
    ),
)
