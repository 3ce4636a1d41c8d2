"""Products of runs of rows, each with a matrix of its own: the feed-forward matrices of experts.

Letters: m rows, g matrices, each [out, in].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.operator_limits import check_dtypes, require

_MAX_WIDTH = 65535
"""Largest inner dim that `npu_grouped_matmul` accepts."""


def grouped_linear(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Multiply each run of rows by the transpose of its matrix.

    Args:
        rows: [m, in] activations of any float dtype, the rows of the first matrix first.
        weight: [g, out, in] in the same dtype.
        counts: [g] int64 number of rows of each matrix, possibly 0, on the device of the rows; they sum to m.

    Returns:
        [m, out] in the dtype of the rows.

    Raises:
        OperatorLimit: The device's operator does not support these shapes or dtypes.
    """
    kernels = kernels_for(rows)
    if kernels is not None:
        return _on_npu(kernels, rows, weight, counts)
    if _has_cuda_operator(rows, weight):
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=counts.cumsum(0).int())
    return plain_grouped_linear(rows, weight, counts)


def plain_grouped_linear(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Compute `grouped_linear` by its definition, one matrix [out, in] after the other, in the dtype of the rows.

    Matrices without rows are multiplied too, so that each has a gradient, if only of zeros.
    """
    runs = rows.split(counts.tolist())
    return torch.cat([run @ matrix.t() for run, matrix in zip(runs, weight.unbind(0), strict=True)])


def _has_cuda_operator(rows: Tensor, weight: Tensor) -> bool:
    """Whether torch multiplies these in one operation: on CUDA, in bfloat16, with rows of multiples of 16 bytes."""
    return (
        rows.is_cuda
        and rows.dtype == torch.bfloat16
        and hasattr(F, "grouped_mm")
        and torch.cuda.get_device_capability(rows.device) >= (9, 0)
        and weight.shape[1] % 8 == 0
        and weight.shape[2] % 8 == 0
    )


def _on_npu(kernels: Kernels, rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    name = "npu_grouped_matmul"
    check_dtypes(name, rows, weight)
    for width in weight.shape[1:]:
        require(width <= _MAX_WIDTH, name, f"a width up to {_MAX_WIDTH}", width, "use another model")
    product: Tensor = _NpuGroupedLinear.apply(rows, weight, counts.cumsum(0), kernels.library)
    return product


class _NpuGroupedLinear(torch.autograd.Function):
    """`npu_grouped_matmul` has no gradient of its own: its form for runs of rows, and that for sums over rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, ends: Tensor, library: Any) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(rows, weight, ends)
        ctx.library = library
        return _by_rows(library, rows, weight.transpose(1, 2), ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # type: ignore[override]
        rows, weight, ends = ctx.saved_tensors
        grad_rows = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_rows = _by_rows(ctx.library, grad, weight, ends)
        if ctx.needs_input_grad[1]:
            (grad_weight,) = ctx.library.npu_grouped_matmul(
                [grad.t()], [rows], group_list=ends, split_item=3, group_type=2, group_list_type=0
            )
        return grad_rows, grad_weight, None, None


def _by_rows(library: Any, rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    (product,) = library.npu_grouped_matmul(
        [rows], [matrices], group_list=ends, split_item=3, group_type=0, group_list_type=0
    )
    return product
