"""Gated SiLU (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up, where the last dim of x [..., 2f] is the gate half and then the up half; result [..., f]."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
