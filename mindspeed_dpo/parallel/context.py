"""Context parallelism: what ranks exchange that compute parts of one packed row, after Ulysses (arXiv:2309.14509).

Every module works on its rank's rows. Only attention needs all of them: around it an all-to-all turns T / c rows of all
heads into all T rows of 1 / c of the heads, and back. Letters: c ranks, T rows, d width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import RowPart


def key_heads(groups: int, size: int) -> int:
    """Key heads of each of `size` ranks during attention, for `groups` of them; fewer than ranks are repeated."""
    return math.lcm(groups, size) // size


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that share a packed row.

    Attributes:
        size: Number of ranks, at least 2.
        group: Process group of torch.
    """

    size: int
    group: Any

    @classmethod
    def of(cls, size: int) -> ContextGroup | None:
        """The group of this process, or None where rows are not split."""
        return cls(size, parallel_state.get_context_parallel_group()) if size > 1 else None

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From this rank's rows of all heads to all rows of its share of the heads.

        Rank r gets the r-th run of query heads and the key heads that those attend with. Where the ranks do not divide
        the key heads, these are repeated first; backward adds the gradients of the copies up.

        Args:
            query: [T / c, heads, d], heads a multiple of c.
            key: [T / c, groups, d].
            value: [T / c, groups, d].

        Returns:
            [T, heads / c, d] and twice [T, `key_heads`, d]; query head i still attends with key head
            i // (query heads / key heads).
        """
        copies = key_heads(key.shape[1], self.size) * self.size // key.shape[1]
        if copies > 1:
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
        shares = [heads.unflatten(1, (self.size, -1)).transpose(0, 1) for heads in (query, key, value)]
        # One message for all three.
        whole = self._exchange(torch.cat(shares, dim=2)).flatten(0, 1)
        query, key, value = whole.split([share.shape[2] for share in shares], dim=1)
        return query, key, value

    def to_rows(self, context: Tensor) -> Tensor:
        """The way back: all rows of a share of the heads [T, heads / c, d] to this rank's of all [T / c, heads, d]."""
        return self._exchange(context.unflatten(0, (self.size, -1))).transpose(0, 1).flatten(1, 2)

    def join(self, columns: Tensor, part: RowPart, count: int) -> Tensor:
        """What every rank says of its labels, [r, c], as what is known of all `count` labels of the row; see `sum`."""
        return self.sum(part.spread(columns, count))

    def sum(self, mine: Tensor) -> Tensor:
        """The sum of the ranks' tensors on each of them; the gradient goes to this rank's own summand alone.

        Every rank computes the same loss from the sum, so each has to learn from its own part of it once.
        """
        whole = mine.detach().clone()
        dist.all_reduce(whole, dist.ReduceOp.SUM, self.group)
        return mine + (whole - mine.detach())

    def _exchange(self, chunks: Tensor) -> Tensor:
        exchanged: Tensor = _Exchange.apply(chunks, self.group)
        return exchanged


class _Exchange(torch.autograd.Function):
    """Chunk i goes to rank i, and chunk i of the result came from it: the transpose of this is the same again."""

    @staticmethod
    def forward(ctx: Any, chunks: Tensor, group: Any) -> Tensor:  # type: ignore[override]
        ctx.group = group
        return _all_to_all(chunks, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _all_to_all(gradient, ctx.group), None


def _all_to_all(chunks: Tensor, group: Any) -> Tensor:
    sent = chunks.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, None, None, group)
    return received
