"""Gated SiLU (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.limits import check_dtypes, require


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) * up, where the last dim of x [..., 2f] is the gate half and then the up half; result [..., f].

    Raises:
        OperatorLimit: The device's operator does not take x.
    """
    kernels = kernels_for(x)
    return plain_swiglu(x) if kernels is None else _on_npu(kernels, x)


def plain_swiglu(x: Tensor) -> Tensor:
    """The definition of `swiglu`."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def _on_npu(kernels: Kernels, x: Tensor) -> Tensor:
    """`npu_swiglu`, which also gates with the first half and has its own backward."""
    check_dtypes("npu_swiglu", x)
    require(x.shape[-1] % 2 == 0, "npu_swiglu", "an even last dim", x.shape[-1], "correct ffn_hidden_size")
    require(x.dim() <= 8, "npu_swiglu", "1 to 8 dims", x.dim(), "join dims")
    gated: Tensor = kernels.library.npu_swiglu(x, -1)
    return gated
