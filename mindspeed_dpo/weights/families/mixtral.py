"""Mixtral: Mistral with experts in every layer, whose scores are always divided by their sum."""

from __future__ import annotations

from mindspeed_dpo.weights.families.experts import routed_expert_rules
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import HfArchitecture, HfExpertKeys, ModelFamily

MIXTRAL = ModelFamily(
    name="mixtral",
    architectures=(HfArchitecture("mixtral", "MixtralForCausalLM", has_window=True),),
    converter_names=("mixtral",),
    experts=HfExpertKeys(
        num_experts=("num_local_experts", "num_experts"), width="intermediate_size", fixed={"norm_topk_prob": True}
    ),
    rules=(
        *EMBEDDING_RULES,
        *ATTENTION_RULES,
        *routed_expert_rules("block_sparse_moe", gate="w1", up="w3", down="w2"),
        *OUTPUT_RULES,
    ),
)
