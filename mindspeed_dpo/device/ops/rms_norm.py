"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.operator_limits import check_dtypes, require


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Normalise by the root mean square of the last dimension, x / sqrt(mean(x^2) + epsilon) * weight, in float32.

    Args:
        x: [..., h] hidden states of any float dtype.
        weight: [h].
        epsilon: Added to the mean square.

    Returns:
        [..., h] in x's dtype.

    Raises:
        OperatorLimit: The device's operator does not support these shapes or dtypes.
    """
    kernels = kernels_for(x)
    return plain_rms_norm(x, weight, epsilon) if kernels is None else _on_npu(kernels, x, weight, epsilon)


def plain_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Compute `rms_norm` in plain torch, [..., h] hidden states in the dtype of x; saves only x for backward."""
    normal: Tensor = _RMSNorm.apply(x, weight, epsilon)
    return normal


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # type: ignore[override]
        wide = x.float()
        inverse = wide.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        normal = x.float() * inverse
        grad_weight = (grad * normal.to(x.dtype)).reshape(-1, len(weight)).sum(0)
        wide = (grad * weight).float()
        # The component along the normalised row has no effect.
        along = (wide * normal).mean(-1, keepdim=True)
        return wide.addcmul_(normal, along, value=-1).mul_(inverse).to(x.dtype), grad_weight, None


def _on_npu(kernels: Kernels, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Call `npu_rms_norm`, which has its own backward; its second result, the inverse root, is not used."""
    check_dtypes("npu_rms_norm", x, weight)
    require(2 <= x.dim() <= 8, "npu_rms_norm", "2 to 8 dims", x.dim(), "add or join dims")
    normal: Tensor = kernels.library.npu_rms_norm(x, weight, epsilon)[0]
    return normal
