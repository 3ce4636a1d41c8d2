"""Matrix products with few rows, in which decoding spends most of its time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mindspeed_dpo.device.bf16_emulation import is_faster_in_float32

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
    """Build the product with a matrix that is used repeatedly while it does not change, mostly for `rows` rows.

    On the host, float32 matrices are copied into oneDNN's blocked layout for the lifetime of the returned function, and
    so are bfloat16 matrices that are multiplied faster in float32. Otherwise it is `linear`, which reflects later
    changes of the weight. Build a new product after every change.

    Args:
        weight: [out, in] weights of any float dtype.
        bias: [out] or None.
        rows: Number of rows that the layout is optimised for; any number can be multiplied.
    """
    if not _has_blocked_layout(weight):
        return partial(linear, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().float(), rows)
    added = None if bias is None else bias.float()
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor) -> Tensor:
        out: Tensor = multiply(x.float().contiguous(), packed, added, "none", [], "")
        return out.to(x.dtype)

    return product


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
