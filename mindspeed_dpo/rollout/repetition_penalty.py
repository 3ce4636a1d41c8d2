"""The repetition penalty of CTRL (Keskar et al. 2019, arXiv:1909.05858), and the mask of tokens that it applies to."""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.generation import RolloutConfig


def new_seen_mask(settings: RolloutConfig, rows: int, vocab_size: int, device: torch.device) -> Tensor | None:
    """Allocate a mask [rows, V] bool of the tokens that occurred, all false; None without a repetition penalty."""
    if settings.repetition_penalty == 1:
        return None
    return torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)


def penalized(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Apply the penalty to logits [R, V] float32, given the mask [R, V] bool of tokens that occurred.

    Positive logits of tokens that occurred are divided by the penalty, negative ones multiplied.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
