"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467)."""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.limits import check_dtypes, require


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """X / sqrt(mean(x^2) + epsilon) * weight over the last dim, computed in float32.

    Args:
        x: [..., h] any float dtype.
        weight: [h].
        epsilon: Added to the mean square.

    Returns:
        [..., h] in x's dtype.

    Raises:
        OperatorLimit: The device's operator does not take these.
    """
    kernels = kernels_for(x)
    return plain_rms_norm(x, weight, epsilon) if kernels is None else _on_npu(kernels, x, weight, epsilon)


def plain_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The definition of `rms_norm`."""
    wide = x.float()
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return weight * normal.to(x.dtype)


def _on_npu(kernels: Kernels, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`npu_rms_norm`, which has its own backward; it also gives 1 / root, which is not needed here."""
    check_dtypes("npu_rms_norm", x, weight)
    require(2 <= x.dim() <= 8, "npu_rms_norm", "2 to 8 dims", x.dim(), "add or join dims")
    normal: Tensor = kernels.library.npu_rms_norm(x, weight, epsilon)[0]
    return normal
