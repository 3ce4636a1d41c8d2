"""Llama 2, 3, 3.1, 3.2, 3.3, Yi and Mistral: no biases, no norms on heads. The base of the other dense families."""

from __future__ import annotations

from mindspeed_dpo.weights.layouts import AttentionOutput, Copy, Down, GateUp, Qkv, Vocabulary
from mindspeed_dpo.weights.rules import OUTPUT_LAYER, Rule, RuleTable

MCORE = "decoder.layers.{i}."
HF = "model.layers.{g}."

LLAMA: RuleTable = (
    Rule("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Vocabulary(), where="first"),
    Rule(
        MCORE + "input_layernorm.weight",
        (HF + "input_layernorm.weight",),
        Copy("hidden_size"),
        aliases=(MCORE + "self_attention.linear_qkv.layer_norm_weight",),
    ),
    Rule(
        MCORE + "self_attention.linear_qkv.weight",
        tuple(HF + f"self_attn.{name}_proj.weight" for name in "qkv"),
        Qkv(),
    ),
    Rule(MCORE + "self_attention.linear_proj.weight", (HF + "self_attn.o_proj.weight",), AttentionOutput()),
    Rule(
        MCORE + "pre_mlp_layernorm.weight",
        (HF + "post_attention_layernorm.weight",),
        Copy("hidden_size"),
        aliases=(MCORE + "mlp.linear_fc1.layer_norm_weight",),
    ),
    Rule(
        MCORE + "mlp.linear_fc1.weight",
        (HF + "mlp.gate_proj.weight", HF + "mlp.up_proj.weight"),
        GateUp(),
    ),
    Rule(MCORE + "mlp.linear_fc2.weight", (HF + "mlp.down_proj.weight",), Down()),
    Rule("decoder.final_layernorm.weight", ("model.norm.weight",), Copy("hidden_size"), where="last"),
    Rule(OUTPUT_LAYER, ("lm_head.weight",), Vocabulary(), where="last"),
)
