"""Products of runs of rows with matrices that do not change for a while: the experts of a model that generates.

A row's product must not depend on how many rows its matrix multiplies, which depends on the other responses of a batch.
On the host the number of rows decides which kernel multiplies, so rows are multiplied in numbers at which all kernels
give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from mindspeed_dpo.device.ops.decode_linear import Product, linear, stable_product
from mindspeed_dpo.device.ops.decode_row_counts import at_least, fill
from mindspeed_dpo.device.ops.grouped_linear import grouped_linear
from mindspeed_dpo.device.ops.kernels import kernels_for

GroupedProduct = Callable[[Tensor, Tensor], Tensor]
"""Maps rows [m, in], those of the first matrix first, and the number of rows of each [g] int64, to [m, out]."""
ROWS_THAT_COUNT = 8
"""Rows of the product on the host whose bits count. A token has few experts, so in a decoding pass few rows have the
same one."""
MOST_ROWS = 64
"""Rows of a product on the host at most; more have no advantage."""


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
    if not packed:
        plain = [partial(linear, matrix, None) for matrix in matrices]
        return partial(_multiply_runs, plain, (ROWS_THAT_COUNT,), len(matrices[0]))
    products, counts = zip(
        *(stable_product(matrix, None, ROWS_THAT_COUNT, MOST_ROWS) for matrix in matrices), strict=True
    )
    return partial(_multiply_runs, products, min(counts, key=len), len(matrices[0]))


def in_one_block(matrices: Sequence[Tensor]) -> Tensor:
    """Return weights [out, in] as one tensor [g, out, in] of their dtype: a view of one block, or a copy."""
    first = matrices[0]
    ends = [first.data_ptr() + index * first.nbytes for index in range(len(matrices))]
    if all(one.is_contiguous() and one.data_ptr() == end for one, end in zip(matrices, ends, strict=True)):
        return first.as_strided((len(matrices), *first.shape), (first.numel(), *first.stride()))
    return torch.stack(list(matrices))


def _multiply_runs(
    products: Sequence[Product], counts: tuple[int, ...], width: int, rows: Tensor, numbers: Tensor
) -> Tensor:
    parts, start = [], 0
    rows = rows.contiguous()
    for multiply, number in zip(products, numbers.tolist(), strict=True):
        end = start + number
        while start < end:
            size = min(end - start, counts[-1])
            parts.append(_multiply_some(multiply, rows, start, size, at_least(counts, size)))
            start += size
    return torch.cat(parts) if parts else rows.new_empty(0, width)


def _multiply_some(multiply: Product, rows: Tensor, start: int, size: int, count: int) -> Tensor:
    """Multiply `size` rows together with as many rows beside them as `count` needs, whose products are dropped."""
    if count > len(rows):
        return multiply(fill(rows[start : start + size], count))[:size]
    first = min(start, len(rows) - count)
    return multiply(rows[first : first + count])[start - first : start - first + size]
