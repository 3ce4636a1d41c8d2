"""Tiny reward models: Hugging Face's classifiers with one label and random weights, saved as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from tests.support.tiny_models import tiny_config


def tiny_reward_model(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A float32 classifier of the family `name` of `tiny_models`, weights random everywhere."""
    config = tiny_config(name)
    config.num_labels = 1
    for key, value in changes.items():
        setattr(config, key, value)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_tiny_reward_model(name: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny reward model as safetensors with its config, and return the folder."""
    tiny_reward_model(name, seed, **changes).save_pretrained(folder)
    return folder


def hf_scores(model: PreTrainedModel, sequences: list[list[int]]) -> torch.Tensor:
    """Logits [N] of token sequences, one at a time: without padding, hence read at the last token."""
    assert model.config.pad_token_id is None
    with torch.no_grad():
        return torch.stack([model(torch.tensor([ids])).logits[0, 0] for ids in sequences])
