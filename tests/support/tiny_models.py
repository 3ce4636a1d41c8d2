"""Tiny Hugging Face models with random weights, one for every kind of family, saved as a folder.

The vocabulary of 93 divides by no tensor-parallel size; norms and biases are random, so that mixing them up shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Glm4MoeConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

SIZES = {
    "vocab_size": 93, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "initializer_range": 0.1,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}

FAMILIES = (
    "llama", "llama_tied", "llama3_rope", "llama_linear", "llama_yarn", "llama_mha", "mistral", "mistral_window",
    "qwen2", "qwen2_tied", "qwen3",
)  # fmt: skip
"""Names of dense models that `tiny_config` knows."""

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "num_hidden_layers": 2}
GLM_EXPERTS = {
    "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "num_hidden_layers": 2,
    "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7, "n_shared_experts": 2, "head_dim": 8,
    "num_mtp_layers": 0,
}  # fmt: skip
MOE_FAMILIES = ("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_some_dense", "glm4_moe", "glm4_moe_no_norms")
"""Names of models with experts that `tiny_config` knows."""


def tiny_config(name: str) -> PreTrainedConfig:
    """The config of a tiny model; `name` is one of `FAMILIES` or of `MOE_FAMILIES`."""
    configs = {
        "llama": lambda: LlamaConfig(**SIZES),
        "llama_tied": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True),
        "llama3_rope": lambda: LlamaConfig(**SIZES, rope_parameters=dict(LLAMA3_ROPE)),
        "llama_linear": lambda: LlamaConfig(**SIZES, rope_parameters=dict(LINEAR_ROPE)),
        "llama_yarn": lambda: LlamaConfig(**SIZES, rope_parameters=dict(YARN_ROPE)),
        "llama_mha": lambda: LlamaConfig(**{**SIZES, "num_key_value_heads": 8}),
        "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
        "mistral_window": lambda: MistralConfig(**SIZES, sliding_window=4),
        "qwen2": lambda: Qwen2Config(**SIZES),
        "qwen2_tied": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
        "qwen3": lambda: Qwen3Config(**SIZES, head_dim=12),
        "mixtral": lambda: MixtralConfig(**SIZES | {"num_hidden_layers": 2}, num_local_experts=4),
        "qwen2_moe": lambda: Qwen2MoeConfig(**SIZES | EXPERTS, shared_expert_intermediate_size=24),
        "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES | EXPERTS, head_dim=12, norm_topk_prob=True),
        "qwen3_moe_some_dense": lambda: Qwen3MoeConfig(
            **SIZES | EXPERTS | {"num_hidden_layers": 4}, head_dim=12, decoder_sparse_step=2, mlp_only_layers=[3]
        ),
        "glm4_moe": lambda: Glm4MoeConfig(**SIZES | GLM_EXPERTS, use_qk_norm=True, attention_bias=True),
        "glm4_moe_no_norms": lambda: Glm4MoeConfig(**SIZES | GLM_EXPERTS, norm_topk_prob=False),
    }
    return configs[name]()


def tiny_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A float32 model with random weights everywhere, also where models start from zeros and ones."""
    config = tiny_config(name)
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("e_score_correction_bias"):
                buffer.add_(0.3 * torch.randn_like(buffer))
    return model.eval()


def save_tiny_model(
    name: str, folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, max_shard_size: str = "5GB",
    **changes: Any,
) -> Path:  # fmt: skip
    """Save a tiny model as safetensors with its config, perhaps with changes, and return the folder."""
    tiny_model(name, seed, **changes).to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
