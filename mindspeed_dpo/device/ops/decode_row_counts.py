"""Numbers of rows that a matrix product on the host may be given without a change of any row's bits.

A matrix library chooses its kernel by the number of rows, and kernels may add the terms of a sum in different orders.
A row must not depend on how many others there are, so rows are multiplied in numbers at which the products were found
to be equal. The kernel depends on shapes alone, so random rows show this for all rows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_CANDIDATES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Few numbers, since each has a kernel of its own, of 1 ms and 0.4 MiB for a matrix; with them at most a third of the
rows is multiplied for nothing."""
_FIRST = 3
"""Where the compared rows begin, so that they lie elsewhere among their neighbours than in the product that counts."""
_COMPARED = 500
"""Results to compare at least: the sum of a few terms may be the same in another order."""
_known: dict[tuple[object, ...], tuple[int, ...]] = {}


def equal_row_counts(multiply: Callable[[Tensor], Tensor], weight: Tensor, fixed: int, largest: int) -> tuple[int, ...]:
    """Find the numbers of rows at which a product has the bits that it has for `fixed` rows.

    It is tried once in a process for matrices of one shape.

    Args:
        multiply: The product with the weight: maps rows [n, in] to rows [n, out] of the same dtype.
        weight: [out, in] weights of any float dtype, on the host.
        fixed: The number of rows whose products count.
        largest: Limit of the numbers to try.

    Returns:
        `fixed` and the others, in ascending order.
    """
    case = (tuple(weight.shape), weight.dtype, fixed, largest, torch.get_num_threads())
    if case not in _known:
        rows = _random_rows(_FIRST + max(fixed, largest, _COMPARED // len(weight)), weight)
        expected = torch.cat([multiply(fill(part, fixed)) for part in rows.split(fixed)])[: len(rows)]
        if not (expected.isfinite().all() and expected.any()):
            # Such weights show nothing about others of their shape.
            return (fixed,)
        tried = [count for count in _CANDIDATES if count <= largest and count != fixed]
        equal = [count for count in tried if _is_equal(multiply, count, rows[_FIRST:], expected[_FIRST:])]
        _known[case] = tuple(sorted([fixed, *equal]))
    return _known[case]


def at_least(counts: tuple[int, ...], rows: int) -> int:
    """Return the least of ascending counts that holds so many rows, or the largest if none does."""
    return counts[min(bisect_left(counts, rows), len(counts) - 1)]


def fill(rows: Tensor, count: int) -> Tensor:
    """Append rows of zeros to rows [n, in] of any dtype, n <= count, to [count, in]."""
    return rows if len(rows) == count else F.pad(rows, (0, 0, 0, count - len(rows)))


def _is_equal(multiply: Callable[[Tensor], Tensor], count: int, rows: Tensor, expected: Tensor) -> bool:
    """Compare products of `count` rows with enough of those expected."""
    times = min(-(-_COMPARED // (count * expected.shape[1])), len(rows) // count)
    ranges = [slice(count * place, count * (place + 1)) for place in range(times)]
    return all(torch.equal(multiply(rows[part]), expected[part]) for part in ranges)


def _random_rows(count: int, weight: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, weight.shape[1], generator=generator).to(weight.dtype)
