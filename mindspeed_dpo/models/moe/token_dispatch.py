"""Sending each token to the ranks that hold its experts, and summing what they return. No token is dropped.

Letters: t tokens of this rank, h hidden size, k experts of a token, n ranks of the group, g experts of this rank,
m rows that this rank's experts compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.models.moe.router import Routing
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup

Experts = Callable[[Tensor, Tensor], Tensor]
"""Maps rows [m, h] in the order of the experts, and the number of rows of each [g], to outputs [m, h]."""


@dataclass(frozen=True)
class TokenDispatch:
    """Computes tokens with the experts of all ranks of a group; a collective of the group in every call.

    `TokenDispatch(ExpertGroup(rank=0, size=1), num_experts=8)` computes all experts on this rank.

    Attributes:
        group: The ranks that share the experts.
        num_experts: Experts of the layer over all ranks.
    """

    group: ExpertGroup
    num_experts: int

    def apply(self, experts: Experts, rows: Tensor, routing: Routing) -> Tensor:
        """Compute each token's experts and sum their outputs by the weights of the routing.

        Args:
            experts: The experts of this rank.
            rows: [t, h] activations of any float dtype; t may differ between ranks and may be 0.
            routing: Experts of the tokens.

        Returns:
            [t, h] in the same dtype.
        """
        chosen = routing.experts.flatten()
        order = chosen.argsort(stable=True)
        # Unlike bincount, this does not wait for the device.
        counts = torch.zeros(self.num_experts, dtype=torch.int64, device=rows.device)
        counts.scatter_add_(0, chosen, torch.ones_like(chosen))
        sorted_rows = _repeat_in_order(rows, order, routing.experts.shape[1])
        outputs = self._on_all_ranks(experts, sorted_rows, counts)
        by_token = outputs.index_select(0, _inverse(order)).view(*routing.experts.shape, rows.shape[1])
        return torch.bmm(routing.weights.to(rows.dtype)[:, None, :], by_token)[:, 0]

    def _on_all_ranks(self, experts: Experts, rows: Tensor, counts: Tensor) -> Tensor:
        """Compute rows [t k, h] in the order of all experts, counts [experts] of them each, where the experts are."""
        if self.group.size == 1:
            return experts(rows, counts)
        arriving = self.group.exchange_counts(counts)
        # The exchange needs the numbers of rows on the host, which waits for the device once.
        sent, received = torch.stack((counts.view_as(arriving).sum(1), arriving.sum(1))).tolist()
        arrived = self.group.exchange(rows, sent, received)
        order = _by_expert(arriving, sum(received))
        outputs = experts(_permute(arrived, order), arriving.sum(0))
        return self.group.exchange(_permute(outputs, _inverse(order)), received, sent)


def _by_expert(arriving: Tensor, total: int) -> Tensor:
    """The order [total] int64 that sorts rows by expert; they arrive by rank and then by expert, [n, g] of each."""
    experts = torch.arange(arriving.shape[1], device=arriving.device).expand_as(arriving)
    return experts.flatten().repeat_interleave(arriving.flatten(), output_size=total).argsort(stable=True)


def _inverse(order: Tensor) -> Tensor:
    """The inverse [m] int64 of a permutation [m]."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _permute(rows: Tensor, order: Tensor) -> Tensor:
    """Rows [m, h] in the order of a permutation [m]."""
    return _repeat_in_order(rows, order, 1)


def _repeat_in_order(rows: Tensor, order: Tensor, copies: int) -> Tensor:
    """Rows [t, h], each `copies` times, in the order of a permutation [t copies]."""
    repeated: Tensor = _RepeatInOrder.apply(rows, order, copies)
    return repeated


class _RepeatInOrder(torch.autograd.Function):
    """The gradient of an indexing adds rows in no fixed order; that of the inverse permutation is a plain sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, copies: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(order)
        ctx.copies = copies
        return rows.index_select(0, order if copies == 1 else order // copies)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (order,) = ctx.saved_tensors
        by_row = grad.index_select(0, _inverse(order))
        return by_row if ctx.copies == 1 else by_row.unflatten(0, (-1, ctx.copies)).sum(1), None, None
