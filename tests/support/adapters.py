"""Runs of the tiny model that train adapters, and the model they start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mindspeed_dpo.config.run import RunConfig
from tests.support.runs import Layout
from tests.unit.workers.pairs import random_run

TINY_MODULES = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def save_tiny_policy(folder: Path, seed: int = 2, layers: int = 2) -> Path:
    """Save random weights of the shipped tiny model, perhaps of another depth, and return their folder."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=262,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        rms_norm_eps=1e-6,
        initializer_range=0.1,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


def adapter_run(folder: Path, policy: Path, layout: Layout = (1, 1, 1), **settings: Any) -> RunConfig:
    """A run over the few pairs of `random_run` that trains adapters on weights."""
    folder.mkdir(exist_ok=True)
    keys = {
        "random_init": False,
        "load": policy,
        "finetune": True,
        "reference_cache_dir": folder / "cache",
        "lora_target_modules": list(TINY_MODULES),
        "lora_r": 4,
        "lora_alpha": 8,
        "lr": 1e-2,
        **settings,
    }
    return random_run(folder, layout, **keys)
