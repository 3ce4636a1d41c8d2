"""The differentiable all-to-all of context and expert parallelism."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Counts = list[int] | None


def all_to_all(rows: Tensor, group: Any, sent: Counts = None, received: Counts = None) -> Tensor:
    """Send runs of rows to the ranks of a group and receive theirs; backward sends every gradient back.

    Args:
        rows: [sum of sent, ...] values of any floating dtype, in the order of the ranks they are for.
        group: Process group of torch.distributed.
        sent: Number of rows for each rank; None for equal runs.
        received: Number of rows from each rank; None for equal runs.

    Returns:
        [sum of received, ...] values in the same dtype, in the order of the ranks they are from.
    """
    exchanged: Tensor = _AllToAll.apply(rows, group, sent, received)
    return exchanged


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any, sent: Counts, received: Counts) -> Tensor:  # type: ignore[override]
        ctx.group, ctx.sent, ctx.received = group, sent, received
        return _exchange(rows, group, sent, received)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return _exchange(gradient, ctx.group, ctx.received, ctx.sent), None, None, None


def _exchange(rows: Tensor, group: Any, sent: Counts, received: Counts) -> Tensor:
    result = rows.new_empty(len(rows) if received is None else sum(received), *rows.shape[1:])
    dist.all_to_all_single(result, rows.contiguous(), received, sent, group)
    return result
