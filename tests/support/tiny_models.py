"""Tiny Hugging Face models with random weights, one for every kind of family, saved as a folder.

The vocabulary of 93 divides by no tensor-parallel size; norms and biases are random, so that mixing them up shows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PreTrainedModel, Qwen2Config, Qwen3Config

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
"""Names that `tiny_config` knows."""


def tiny_config(name: str) -> LlamaConfig | MistralConfig | Qwen2Config | Qwen3Config:
    """The config of a tiny model; `name` is one of `FAMILIES`."""
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
    }
    return configs[name]()


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A float32 model with random weights everywhere, also where models start from zeros and ones."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(name), dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_tiny_model(
    name: str, folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, max_shard_size: str = "5GB"
) -> Path:
    """Save a tiny model as safetensors with its config, and return the folder."""
    tiny_model(name, seed).to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
