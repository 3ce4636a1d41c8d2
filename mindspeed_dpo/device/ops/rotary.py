"""Rotary position embedding in the half-split form (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.operator_limits import ROTARY_HEADS, ROTARY_WIDTH, check_dtypes, require


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply the rotary embedding to heads.

    Args:
        x: [T, heads, d] queries or keys.
        cos: [T, w] float32, the cosine of each angle, the two halves of w being equal; the first w <= d channels of a
            head are rotated.
        sin: [T, w] float32.

    Returns:
        [T, heads, d] in x's dtype; computed in float32.

    Raises:
        OperatorLimit: The device's operator does not support these shapes or dtypes.
    """
    width = cos.shape[-1]
    if width < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), dim=-1)
    kernels = kernels_for(x)
    return plain_rotate(x, cos, sin) if kernels is None else _on_npu(kernels, x, cos, sin)


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute `rotate` in plain torch: activations [T, heads, d] in the dtype of x; saves only angles for backward."""
    rotated: Tensor = _Rotation.apply(x, cos.unsqueeze(1), sin.unsqueeze(1))
    return rotated


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(cos, sin)
        return _rotate_half_split(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        # The transpose of a rotation is its inverse.
        return _rotate_half_split(grad, cos, -sin), None, None


def _rotate_half_split(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Compute x * cos + (-second half, first half) * sin without concatenating the halves."""
    wide = x.float()
    turned = wide * cos
    (first, second), (sin_first, sin_second) = wide.chunk(2, dim=-1), sin.chunk(2, dim=-1)
    to_first, to_second = turned.chunk(2, dim=-1)
    to_first.addcmul_(second, sin_first, value=-1)
    to_second.addcmul_(first, sin_second)
    return turned.to(x.dtype)


def _on_npu(kernels: Kernels, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Call `npu_rotary_mul` in layout BSND with one row of T positions, in float32 like the definition.

    Cosines in bfloat16 have an error of up to 2^-9, so heads are converted to float32 instead.
    """
    name, (heads, width) = "npu_rotary_mul", x.shape[1:]
    require(width % 2 == 0 and width <= ROTARY_WIDTH, name, f"an even width up to {ROTARY_WIDTH}", width, "use another")
    require(heads <= ROTARY_HEADS, name, f"at most {ROTARY_HEADS} heads", heads, "raise tensor_model_parallel_size")
    wide, cos, sin = x.float(), cos[:, None], sin[:, None]
    check_dtypes(name, wide, cos, sin)
    turned: Tensor = kernels.library.npu_rotary_mul(wide[None], cos[None], sin[None])
    return turned[0].to(x.dtype)
