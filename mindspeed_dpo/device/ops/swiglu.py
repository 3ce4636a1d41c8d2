"""Gated SiLU (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.operator_limits import check_dtypes, require


def swiglu(x: Tensor) -> Tensor:
    """Compute silu(gate) * up for x [..., 2f] = (gate, up); [..., f] activations in the dtype of x.

    Raises:
        OperatorLimit: The device's operator does not support x.
    """
    kernels = kernels_for(x)
    return plain_swiglu(x) if kernels is None else _on_npu(kernels, x)


def plain_swiglu(x: Tensor) -> Tensor:
    """Compute `swiglu` in plain torch: [..., f] activations in the dtype of x; saves only its input for backward."""
    gated: Tensor = _SwiGLU.apply(x)
    return gated


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        # Both halves are written in place, since concatenating them would copy them again.
        grad_x = torch.empty_like(x)
        grad_gate, grad_up = grad_x.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_x


def _on_npu(kernels: Kernels, x: Tensor) -> Tensor:
    """Call `npu_swiglu`, which gates with the first half too and has its own backward."""
    check_dtypes("npu_swiglu", x)
    require(x.shape[-1] % 2 == 0, "npu_swiglu", "an even last dim", x.shape[-1], "correct ffn_hidden_size")
    require(x.dim() <= 8, "npu_swiglu", "1 to 8 dims", x.dim(), "join dims")
    gated: Tensor = kernels.library.npu_swiglu(x, -1)
    return gated
