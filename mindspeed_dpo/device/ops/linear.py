"""Few rows times one matrix, again and again: what decoding spends most of its time with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mindspeed_dpo.device.bf16_emulation import is_wanted_for

Product = Callable[[Tensor], Tensor]
"""Rows [n, in] to rows [n, out]."""


def linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Rows [n, in] times the transposed weight [out, in], as the transpose of a contiguous [out, n].

    With the large matrix on the left, matrix libraries need less time for few rows than by F.linear, and what follows
    keeps this order in memory, so that nothing is transposed between layers.
    """
    if bias is None:
        return torch.mm(weight, x.t()).t()
    return torch.addmm(bias[:, None], weight, x.t()).t()


def few_rows_product(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    """The product by a matrix that will be used many times while it stays as it is, mostly for `rows` rows at a time.

    On the host float32 matrices are copied into the blocks that oneDNN multiplies by, the copy living as long as the
    function returned; so are those of bfloat16 that are better multiplied as float32. Everywhere else, and where this
    torch cannot do it, it is `linear`, which sees later changes of the weight; so ask for a new one after every change.

    Args:
        weight: [out, in].
        bias: [out] or None.
        rows: What it is arranged for; any number can be multiplied.
    """
    if not _has_blocked_form(weight):
        return partial(linear, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().float(), rows)
    added = None if bias is None else bias.float()
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def product(x: Tensor) -> Tensor:
        out: Tensor = multiply(x.float().contiguous(), packed, added, "none", [], "")
        return out.to(x.dtype)

    return product


def rows_to_multiply(rows: int, weight: Tensor) -> int:
    """To how many rows a product of `few_rows_product` is best filled up; it depends on `rows` alone.

    oneDNN compiles a kernel for every number of rows and keeps it: 6 ms and 2.5 MiB for the matrices of one model. So
    there are at most eight numbers between a power of two and the next.
    """
    if not _has_blocked_form(weight):
        return rows
    step = max(8, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // step) * step


def _has_blocked_form(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and (weight.dtype == torch.float32 or is_wanted_for(weight))
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
