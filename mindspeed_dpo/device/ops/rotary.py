"""Rotary position embedding in the half-split form (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.limits import ROTARY_HEADS, ROTARY_WIDTH, check_dtypes, require


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads by the angles of their positions.

    Args:
        x: [T, heads, d] queries or keys.
        cos: [T, d] float32, the cosine of each angle, the two halves of d being equal.
        sin: [T, d] float32.

    Returns:
        [T, heads, d] in x's dtype; computed in float32.

    Raises:
        OperatorLimit: The device's operator does not take these.
    """
    kernels = kernels_for(x)
    return plain_rotate(x, cos, sin) if kernels is None else _on_npu(kernels, x, cos, sin)


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The definition of `rotate`, which keeps the angles alone for the backward pass."""
    rotated: Tensor = _Rotation.apply(x, cos.unsqueeze(1), sin.unsqueeze(1))
    return rotated


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        # A rotation's transpose turns back.
        return _turn(grad, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """X * cos + (-second half, first half) * sin, without joining the halves."""
    wide = x.float()
    turned = wide * cos
    (first, second), (sin_first, sin_second) = wide.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    to_first, to_second = turned.chunk(2, dim=-1)
    to_first.addcmul_(second, sin_first, value=-1)
    to_second.addcmul_(first, sin_second)
    return turned.to(x.dtype)


def _on_npu(kernels: Kernels, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`npu_rotary_mul` in layout BSND with one row of T positions, in float32 as the definition says.

    Angles in bfloat16 would be off by up to 2^-9, which is why heads are widened and not angles narrowed.
    """
    name, (heads, width) = "npu_rotary_mul", x.shape[1:]
    require(width % 2 == 0 and width <= ROTARY_WIDTH, name, f"an even width up to {ROTARY_WIDTH}", width, "use another")
    require(heads <= ROTARY_HEADS, name, f"at most {ROTARY_HEADS} heads", heads, "raise tensor_model_parallel_size")
    wide, cos, sin = x.float(), cos[:, None], sin[:, None]
    check_dtypes(name, wide, cos, sin)
    turned: Tensor = kernels.library.npu_rotary_mul(wide[None], cos[None], sin[None])
    return turned[0].to(x.dtype)
