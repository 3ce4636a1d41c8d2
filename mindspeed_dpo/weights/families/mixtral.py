"""Mixtral: Mistral with experts in every layer, whose scores are always divided by their sum."""

from __future__ import annotations

from mindspeed_dpo.weights.families.expert_tensors import routed_expert_rules
from mindspeed_dpo.weights.families.hf_config_keys import EXPERT_FIELDS, HfKey, read_num_experts, read_size
from mindspeed_dpo.weights.families.llama import ATTENTION_RULES, EMBEDDING_RULES, OUTPUT_RULES
from mindspeed_dpo.weights.families.model_family import ExpertTraits, HfArchitecture, ModelFamily

MIXTRAL = ModelFamily(
    name="mixtral",
    architectures=(HfArchitecture("mixtral", "MixtralForCausalLM", windowed_layers="all"),),
    converter_names=("mixtral",),
    experts=ExpertTraits(fixed={"norm_topk_prob": True}),
    fields={
        **EXPERT_FIELDS,
        "num_experts": HfKey("num_local_experts", read_num_experts, aliases=("num_experts",)),
        "moe_ffn_hidden_size": HfKey("intermediate_size", read_size),
    },
    rules=(
        *EMBEDDING_RULES,
        *ATTENTION_RULES,
        *routed_expert_rules("block_sparse_moe", gate="w1", up="w3", down="w2"),
        *OUTPUT_RULES,
    ),
)
