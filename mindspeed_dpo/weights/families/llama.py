"""Llama 2, 3, 3.1, 3.2, 3.3, Yi and Mistral: neither biases nor norms on heads. The other dense families extend it."""

from __future__ import annotations

from mindspeed_dpo.weights.families.model_family import HfArchitecture, ModelFamily
from mindspeed_dpo.weights.model_sizes import ffn_hidden_size, hidden_size, query_size
from mindspeed_dpo.weights.name_mapping import FINAL_NORM, OUTPUT_LAYER, RuleTable, TensorRule, layer_rule
from mindspeed_dpo.weights.tensor_layouts import GateUp, Qkv, Replicated, RowParallel, VocabParallel

EMBEDDING_RULES: RuleTable = (
    TensorRule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), VocabParallel(), where="first"),
)
ATTENTION_RULES: RuleTable = (
    layer_rule(
        "input_layernorm.weight",
        "input_layernorm.weight",
        Replicated(hidden_size),
        aliases=("self_attention.linear_qkv.layer_norm_weight",),
    ),
    layer_rule(
        "self_attention.linear_qkv.weight",
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        Qkv(),
    ),
    layer_rule("self_attention.linear_proj.weight", "self_attn.o_proj.weight", RowParallel(hidden_size, query_size)),
)
MLP_NORM_RULES: RuleTable = (
    layer_rule(
        "pre_mlp_layernorm.weight",
        "post_attention_layernorm.weight",
        Replicated(hidden_size),
        aliases=("mlp.linear_fc1.layer_norm_weight",),
    ),
)
MLP_RULES: RuleTable = (
    layer_rule(
        "mlp.linear_fc1.weight",
        ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
        GateUp(ffn_hidden_size),
        where="dense_layer",
    ),
    layer_rule(
        "mlp.linear_fc2.weight",
        "mlp.down_proj.weight",
        RowParallel(hidden_size, ffn_hidden_size),
        where="dense_layer",
    ),
)
OUTPUT_RULES: RuleTable = (
    TensorRule(FINAL_NORM, ("model.norm.weight",), Replicated(hidden_size), where="last"),
    TensorRule(OUTPUT_LAYER, ("lm_head.weight",), VocabParallel(), where="last"),
)

LLAMA = ModelFamily(
    name="llama",
    architectures=(
        HfArchitecture("llama", "LlamaForCausalLM"),
        HfArchitecture("mistral", "MistralForCausalLM", windowed_layers="all"),
    ),
    converter_names=("llama", "llama2", "llama3", "mistral"),
    rules=EMBEDDING_RULES + ATTENTION_RULES + MLP_NORM_RULES + MLP_RULES + OUTPUT_RULES,
)
