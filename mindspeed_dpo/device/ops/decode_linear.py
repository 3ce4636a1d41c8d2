"""Matrix products with few rows, in which decoding spends most of its time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mindspeed_dpo.device.bf16_emulation import is_faster_in_float32
from mindspeed_dpo.device.ops.decode_row_counts import at_least, equal_row_counts, fill

Product = Callable[[Tensor], Tensor]
"""Maps rows [n, in] to rows [n, out] of the same dtype."""


def linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Multiply rows [n, in] by the transposed weight [out, in]; the result is a transposed contiguous [out, n].

    For few rows matrix libraries are faster with the large matrix on the left than with F.linear. Following operators
    keep the memory layout, so nothing is transposed between layers. All values have the same float dtype.
    """
    if bias is None:
        return torch.mm(weight, x.t()).t()
    return torch.addmm(bias[:, None], weight, x.t()).t()


def few_rows_product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """Build the product with a matrix that is used repeatedly while it does not change, mostly for up to `rows` rows.

    On the host a row's product does not depend on how many rows there are up to `rows`, to the bit; see
    `decode_row_counts`. Build a new product after every change of the weight.

    Args:
        weight: [out, in] weights of any float dtype.
        bias: [out] or None.
        rows: Number of rows that the layout is optimised for; any number can be multiplied.
    """
    if weight.device.type != "cpu":
        return partial(linear, weight, bias)
    multiply, counts = stable_product(weight, bias, rows, rows)
    return partial(_multiply_filled, multiply, counts)


def stable_product(weight: Tensor, bias: Tensor | None, fixed: int, largest: int) -> tuple[Product, tuple[int, ...]]:
    """Build the product with a matrix on the host that does not change, and the numbers of rows for which it is equal.

    float32 matrices are copied into oneDNN's blocked layout for the lifetime of the returned function, and so are
    bfloat16 matrices that are multiplied faster in float32. Otherwise it is `linear`, for `fixed` rows only.

    Args:
        weight: [out, in] weights of any float dtype.
        bias: [out] or None.
        fixed: Number of rows whose products count.
        largest: Largest number of rows of interest.

    Returns:
        The product, and ascending numbers of rows, at each of which a row's product has the same bits.
    """
    if not _has_blocked_layout(weight):
        return partial(linear, weight, bias), (fixed,)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().float(), fixed)
    added = None if bias is None else bias.float()
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor) -> Tensor:
        out: Tensor = multiply(x.float().contiguous(), packed, added, "none", [], "")
        return out.to(x.dtype)

    return product, equal_row_counts(product, weight, fixed, largest)


def _multiply_filled(multiply: Product, counts: tuple[int, ...], x: Tensor) -> Tensor:
    """Multiply rows at one of the counts; more rows than the largest are those of a prompt, which is read alone."""
    rows = len(x)
    return multiply(x) if rows > counts[-1] else multiply(fill(x, at_least(counts, rows)))[:rows]


def rows_to_multiply(rows: int, weight: Tensor) -> int:
    """Return the number of rows to pad to for `few_rows_product`, a function of `rows` only.

    oneDNN compiles and caches a kernel for every number of rows: 6 ms and 2.5 MiB for the matrices of one model. The
    result takes at most eight values between consecutive powers of two.

    Args:
        rows: Number of rows.
        weight: A weight [out, in], whose dtype and device decide.
    """
    if not _has_blocked_layout(weight):
        return rows
    step = max(8, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def _has_blocked_layout(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and (weight.dtype == torch.float32 or is_faster_in_float32(weight))
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
