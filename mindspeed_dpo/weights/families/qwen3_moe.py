"""Qwen3 with experts: Qwen3's attention, and experts without a shared one."""

from __future__ import annotations

from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.weights.families.expert_tensors import QWEN_EXPERT_RULES
from mindspeed_dpo.weights.families.hf_config_keys import EXPERT_FIELDS, HfKey
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, MLP_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import ExpertTraits, HfArchitecture, ModelFamily
from mindspeed_dpo.weights.families.qwen3 import HEAD_NORM_RULES

QWEN3_MOE = ModelFamily(
    name="qwen3_moe",
    # Releases of transformers disagree about the layers that `use_sliding_window` applies to, so a window is refused.
    architectures=(HfArchitecture("qwen3_moe", "Qwen3MoeForCausalLM"),),
    converter_names=("qwen3-moe", "qwen3_moe"),
    qk_layernorm=True,
    experts=ExpertTraits(has_step=True),
    fields={**EXPERT_FIELDS, "norm_topk_prob": HfKey("norm_topk_prob", JsonObject.boolean)},
    rules=(*EMBEDDING_RULES, *ATTENTION_RULES, *HEAD_NORM_RULES, *QWEN_EXPERT_RULES, *MLP_RULES, *OUTPUT_RULES),
)
