"""Products of runs of rows with matrices that do not change for a while: the experts of a model that generates.

A row's product must not depend on how many rows its matrix multiplies, which depends on the other responses of a batch.
On the host the number of rows decides which kernel multiplies, so rows are multiplied a fixed number at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.device.ops.decode_linear import Product, few_rows_product, linear
from mindspeed_dpo.device.ops.grouped_linear import grouped_linear
from mindspeed_dpo.device.ops.kernels import kernels_for

GroupedProduct = Callable[[Tensor, Tensor], Tensor]
"""Maps rows [m, in], those of the first matrix first, and the number of rows of each [g] int64, to [m, out]."""
ROWS_AT_ONCE = 8
"""Rows of a product on the host. A token has few experts, so in a decoding pass few rows have the same one."""


def grouped_product(matrices: Sequence[Tensor], *, packed: bool) -> GroupedProduct:
    """Build the product with matrices that do not change while it is used.

    Args:
        matrices: [g] weights [out, in] of one float dtype. On an accelerator, matrices that do not lie one after the
            other in memory are copied.
        packed: Whether to copy them on the host into the layout that is fastest for few rows.
    """
    if matrices[0].device.type != "cpu" or kernels_for(matrices[0]) is not None:
        weight = in_one_block(matrices)
        return lambda rows, counts: grouped_linear(rows.contiguous(), weight, counts)
    products: list[Product] = [
        few_rows_product(matrix, None, ROWS_AT_ONCE) if packed else partial(linear, matrix, None) for matrix in matrices
    ]
    return partial(_multiply_runs, products, len(matrices[0]))


def in_one_block(matrices: Sequence[Tensor]) -> Tensor:
    """Return weights [out, in] as one tensor [g, out, in] of their dtype: a view of one block, or a copy."""
    first = matrices[0]
    ends = [first.data_ptr() + index * first.nbytes for index in range(len(matrices))]
    if all(one.is_contiguous() and one.data_ptr() == end for one, end in zip(matrices, ends, strict=True)):
        return first.as_strided((len(matrices), *first.shape), (first.numel(), *first.stride()))
    return torch.stack(list(matrices))


def _multiply_runs(products: Sequence[Product], width: int, rows: Tensor, counts: Tensor) -> Tensor:
    runs = zip(products, rows.split(counts.tolist()), strict=True)
    parts = [_few_at_once(multiply, run) for multiply, run in runs if len(run)]
    return torch.cat(parts) if parts else rows.new_empty(0, width)


def _few_at_once(multiply: Product, rows: Tensor) -> Tensor:
    padded = F.pad(rows, (0, 0, 0, -len(rows) % ROWS_AT_ONCE))
    return torch.cat([multiply(part) for part in padded.split(ROWS_AT_ONCE)])[: len(rows)]
