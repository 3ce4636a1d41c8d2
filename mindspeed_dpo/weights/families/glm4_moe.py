"""GLM-4.5 and GLM-4.6: sigmoid scores, experts chosen with a correction bias, shared experts, half-rotated heads."""

from __future__ import annotations

from mindspeed_dpo.weights.families.experts import EXPERT_BIAS_RULES, QWEN_EXPERT_RULES, shared_expert_rules
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, MLP_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import HfArchitecture, HfExpertKeys, ModelFamily
from mindspeed_dpo.weights.families.qwen2 import QKV_BIAS_RULES
from mindspeed_dpo.weights.families.qwen3 import HEAD_NORM_RULES

GLM4_MOE = ModelFamily(
    name="glm4_moe",
    architectures=(HfArchitecture("glm4_moe", "Glm4MoeForCausalLM"),),
    converter_names=("glm4-moe", "glm4_moe", "glm45-moe"),
    # Both depend on the model: GLM-4.5-Air has no norms on heads, GLM-4.5 does.
    add_qkv_bias=None,
    qk_layernorm=None,
    experts=HfExpertKeys(
        num_experts=("n_routed_experts", "num_local_experts", "num_experts"),
        width="moe_intermediate_size",
        has_groups=True,
        default_rotary_percent=0.5,
        fixed={"moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True},
    ),
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
