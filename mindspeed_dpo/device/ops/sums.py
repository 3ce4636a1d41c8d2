"""Sums whose error does not grow with the number of terms: in float64, or by pairwise summation in float32.

An NPU has no float64. There terms are added in pairs, these sums in pairs again and so on: each term is rounded log2(n)
times instead of n times (Higham 1993, The accuracy of floating point summation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import kernels_on

_BLOCK = 256
"""Number of squares summed in float32 at once; further sums are in `sum_dtype`. The relative error is below 1e-6."""


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which sums are formed and stored on a device: float64, on NPU float32."""
    return torch.float64 if kernels_on(device) is None else torch.float32


def segment_sum(values: Tensor, segment_ids: Tensor, lengths: Tensor) -> Tensor:
    """Sum over each of n consecutive segments, without synchronising with the device.

    Args:
        values: [R] values of any floating dtype.
        segment_ids: [R] int64 index in [0, n) of each value's segment, ascending.
        lengths: [n] int64 number of values of each segment, possibly 0; they sum to R.

    Returns:
        Sums [n] in `sum_dtype`, with a gradient for `values`.
    """
    in_float64 = sum_dtype(values.device) == torch.float64
    return (plain_segment_sum if in_float64 else pairwise_segment_sum)(values, segment_ids, lengths)


def plain_segment_sum(values: Tensor, segment_ids: Tensor, lengths: Tensor) -> Tensor:
    """Compute `segment_sum` by its definition: the sum of each segment's values, of any unit, [n] float64."""
    return _segment_sum(values, segment_ids, lengths, False)


def pairwise_segment_sum(values: Tensor, segment_ids: Tensor, lengths: Tensor) -> Tensor:
    """Compute `segment_sum` as on NPU: the pairwise sum of each segment's values, of any unit, [n] float32."""
    return _segment_sum(values, segment_ids, lengths, True)


def total(values: Tensor) -> Tensor:
    """Sum values [n, ...], floating dtype, over the first dimension; returns [...] in `sum_dtype`, with gradient."""
    if sum_dtype(values.device) == torch.float64:
        return values.sum(0, dtype=torch.float64)
    return pairwise_total(values)


def pairwise_total(values: Tensor) -> Tensor:
    """Compute `total` as on NPU: values [n, ...] are halved and added until one row is left, [...] float32."""
    sums = values.float()
    while len(sums) > 1:
        half = (len(sums) + 1) // 2
        upper = sums[half:]
        sums = torch.cat((sums[: len(upper)] + upper, sums[len(upper) : half]))
    return sums[0] if len(sums) else sums.sum(0)


def sum_of_squares(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Sum the squares of all values of some float32 tensors: a scalar in `sum_dtype`, without gradient.

    Values are read once and not copied to float64, which would take twice the memory of the tensors.

    Args:
        tensors: Tensors of any shape, possibly none.
        device: Their device.
    """
    norms = [torch.zeros(1, device=device)]
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        in_blocks = len(flat) // _BLOCK * _BLOCK
        norms += [torch.linalg.vector_norm(flat[:in_blocks].view(-1, _BLOCK), dim=1)] if in_blocks else []
        norms += [torch.linalg.vector_norm(flat[in_blocks:])[None]] if in_blocks < len(flat) else []
    return total(torch.cat(norms).to(sum_dtype(device)).square())


def _segment_sum(values: Tensor, segment_ids: Tensor, lengths: Tensor, pairwise: bool) -> Tensor:
    sums: Tensor = _SegmentSum.apply(values, segment_ids, lengths, pairwise)
    return sums


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, values: Tensor, segment_ids: Tensor, lengths: Tensor, pairwise: bool
    ) -> Tensor:
        ctx.save_for_backward(segment_ids)
        ctx.dtype = values.dtype
        if pairwise:
            return _in_pairs(values.float(), segment_ids, lengths)
        return torch.zeros(len(lengths), dtype=torch.float64, device=values.device).index_add_(
            0, segment_ids, values.double()
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (segment_ids,) = ctx.saved_tensors
        return grad.to(ctx.dtype).index_select(0, segment_ids), None, None, None


def _in_pairs(values: Tensor, segment_ids: Tensor, lengths: Tensor) -> Tensor:
    """Compute prefix sums within segments by doubling (Hillis and Steele 1986) and read each segment's last one.

    After k rounds an element holds the sum of the last 2^k values of its segment up to itself, so a value that is not
    finite affects its own segment only.
    """
    sums, step = values, 1
    while step < len(values):
        same = segment_ids[step:] == segment_ids[:-step]
        sums = torch.cat((sums[:step], sums[step:] + sums[:-step].where(same, 0.0)))
        step *= 2
    if not len(values):
        return values.new_zeros(len(lengths))
    return sums[(lengths.cumsum(0) - 1).clamp(min=0)].where(lengths > 0, 0.0)
