"""Adapters made and read by PEFT itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def save_random_adapter(weights: Path, folder: Path, modules: Sequence[str], **settings: Any) -> Path:
    """Save an adapter whose A and B are random, so that it changes something, and return its folder."""
    torch.manual_seed(5)
    options: dict[str, Any] = {"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings}
    model = get_peft_model(base_model(weights), LoraConfig(target_modules=list(modules), **options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def loaded(weights: Path, adapter: Path, trainable: bool = False) -> PeftModel:
    """A model with an adapter, as PEFT loads them."""
    return PeftModel.from_pretrained(base_model(weights), adapter, is_trainable=trainable).eval()


def base_model(weights: Path) -> Any:
    """A Hugging Face model in float32."""
    return AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32, attn_implementation="eager")
