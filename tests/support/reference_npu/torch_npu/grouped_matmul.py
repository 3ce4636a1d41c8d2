"""Products of runs of rows with matrices of their own, in plain torch, in float32, and what the operator refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .rules import need, same_dtype

NAME = "npu_grouped_matmul"


def npu_grouped_matmul(
    x: list[Tensor],
    weight: list[Tensor],
    *,
    group_list: Tensor | None = None,
    split_item: int | None = 0,
    group_type: int | None = None,
    group_list_type: int | None = 0,
    **others: Any,
) -> list[Tensor]:
    """One tensor for all groups on either side, and one result: the forms for runs of rows and for sums over rows.

    As on the device there is no gradient.
    """
    need(not any(value is not None for key, value in others.items() if key != "act_type"), f"{NAME}: {sorted(others)}")
    need(len(x) == len(weight) == 1 and split_item in (2, 3), f"{NAME}: one tensor each and split_item 2 or 3")
    (left,), (right,) = x, weight
    same_dtype(NAME, left, right)
    need(max(left.shape[-1], right.shape[-1]) < 65536, f"{NAME}: inner dims {left.shape[-1]}, {right.shape[-1]}")
    rows = left.shape[0] if group_type == 0 else left.shape[1]
    runs = _runs(group_list, group_list_type, rows)
    wide, matrices = left.detach().float(), right.detach().float()
    if group_type == 0:
        need(right.dim() == 3 and len(right) == len(runs), f"{NAME}: {len(runs)} groups, weight {tuple(right.shape)}")
        products = [wide[run] @ matrix for run, matrix in zip(runs, matrices, strict=True)]
        return [torch.cat(products).to(left.dtype)]
    need(group_type == 2 and right.shape[0] == rows, f"{NAME}: group_type {group_type}, weight {tuple(right.shape)}")
    need(not left.is_contiguous() or 1 in left.shape, f"{NAME}: sums over rows want a transposed view of x")
    return [torch.stack([wide[:, run] @ matrices[run] for run in runs]).to(left.dtype)]


def _runs(group_list: Tensor | None, kind: int | None, rows: int) -> list[slice]:
    """The rows of each group by cumulative ends."""
    if group_list is None:
        need(False, f"{NAME}: group_list is needed")
        return []
    need(kind == 0 and group_list.dtype == torch.int64, f"{NAME}: group_list is of cumulative int64 ends here")
    ends = group_list.tolist()
    need(sorted(ends) == ends and (not ends or ends[-1] == rows), f"{NAME}: ends {ends} for {rows} rows")
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
