"""Rotary position embedding in the half-split form (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads by the angles of their positions.

    Args:
        x: [T, heads, d] queries or keys.
        cos: [T, d] float32, the cosine of each angle, the two halves of d being equal.
        sin: [T, d] float32.

    Returns:
        [T, heads, d] in x's dtype; computed in float32.
    """
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos.unsqueeze(1) + turned * sin.unsqueeze(1)).to(x.dtype)
