"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """X / sqrt(mean(x^2) + epsilon) * weight over the last dim, computed in float32.

    Args:
        x: [..., h] any float dtype.
        weight: [h].
        epsilon: Added to the mean square.

    Returns:
        [..., h] in x's dtype.
    """
    wide = x.float()
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * normal.to(x.dtype)
