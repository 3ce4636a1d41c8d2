"""Attention of one new token per row over a cache of fixed blocks.

A row's result is bitwise the same however long its neighbours are: every block is multiplied alone, in a shape that
never changes, and blocks are added one after the other. One call over the whole length would choose its order of
summation by that length.
Letters: c blocks, B positions of a block, R rows, G query groups here, r query heads of a group, d head width.
Keys lie transposed in their blocks, [d, B], so that a query's score with a block's keys is a sum of d rows of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BlockAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Query [R, G, r, d], keys [c, R, G, d, B] and values [c, R, G, B, d] to [R, G, r, d] in query's dtype."""


@dataclass(frozen=True)
class Reach:
    """What the rows of one pass see.

    Attributes:
        positions: [R] int64 position of each row's query; it sees itself and what is before it.
        first: First block that any row sees.
        last: Past the last one.
        block: Positions of a block.
        window: A query sees at most this many keys, itself included; None is all.
        twins: [R, 2] int64: a row whose first blocks hold the same, possibly the row itself, and how many do. Reading
            them there changes no bit; it finds them in the processor's cache when the twin was read just before.
    """

    positions: Tensor
    first: int
    last: int
    block: int
    window: int | None = None
    twins: Tensor | None = None

    def bias(self) -> Tensor:
        """[c, R, B] float32: 0 where a row sees a key and minus infinity elsewhere."""
        device = self.positions.device
        keys = torch.arange(self.first * self.block, self.last * self.block, device=device).view(-1, 1, self.block)
        own = self.positions.view(1, -1, 1)
        hidden = keys > own
        if self.window is not None:
            hidden |= keys <= own - self.window
        return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))

    def own_blocks(self) -> Tensor:
        """[R, c] bool, the blocks of which a row sees anything."""
        blocks = torch.arange(self.first, self.last, device=self.positions.device)
        own = blocks <= self.positions[:, None] // self.block
        if self.window is not None:
            own &= blocks >= (self.positions[:, None] - self.window + 1).clamp(min=0) // self.block
        return own


def block_attention(reach: Reach, heads: tuple[int, int, int], scale: float, dtype: torch.dtype) -> BlockAttention:
    """Softmax attention of each row over its own blocks, scores and sums in float32, as a function for every layer.

    Args:
        reach: What each row sees.
        heads: G, r and d.
        scale: Factor on the scores.
        dtype: Of query, keys and values; keys are finite also where nothing is visible.
    """
    if reach.positions.device.type == "cpu" and dtype == torch.float32:
        return by_bags(reach, heads, scale)
    return by_products(reach, scale)


def by_products(reach: Reach, scale: float) -> BlockAttention:
    """The definition: batched matrix products over all blocks."""
    bias = reach.bias()[:, :, None, None]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        blocks = len(keys)
        repeated = query.expand(blocks, *query.shape).flatten(0, 2)
        scores = torch.bmm(repeated, keys.flatten(0, 2)).view(blocks, *query.shape[:3], -1)
        scores = torch.add(bias, scores.float(), alpha=scale)
        weights = scores.sub_(scores.amax(-1, keepdim=True).amax(0)).exp_()
        context = torch.bmm(weights.to(values.dtype).flatten(0, 2), values.flatten(0, 2)).view(blocks, *query.shape)
        total = _in_order(weights.sum(-1, keepdim=True))
        return (_in_order(context.float()) / total).to(query.dtype)

    return attend


def by_bags(reach: Reach, heads: tuple[int, int, int], scale: float) -> BlockAttention:
    """The same on the host by weighted sums of table rows (`embedding_bag`), which read a row's own blocks only.

    Matrix products with r rows waste most of a processor; these sums run at the speed of its memory. A sum goes through
    its terms one after the other, alone.
    """
    (groups, ratio, width), block = heads, reach.block
    own = reach.own_blocks()
    rows, blocks = own.shape
    bias = reach.bias().transpose(0, 1)[:, None, :, None]
    row, group, number, head = torch.meshgrid(*map(torch.arange, (rows, groups, blocks, ratio)), indexing="ij")
    seen = own[:, None, :, None].expand(row.shape)
    stored_in = row
    if reach.twins is not None:
        twin, shared = (column[:, None, None, None] for column in reach.twins.unbind(1))
        stored_in = twin.where(number + reach.first < shared, row)
    piece = (number * rows + stored_in) * groups + group
    # Bags of the scores: every (row, group, block, head), empty ones included; those of the mix: (row, group, head).
    query_of = ((row * groups + group) * ratio + head)[seen]
    key_index = _runs(piece[seen], width)
    key_bags = _starts(seen.flatten() * width)
    by_head = seen.transpose(2, 3)
    weight_of = torch.arange(row.numel()).view(row.shape).transpose(2, 3)[by_head]
    value_index = _runs(piece.transpose(2, 3)[by_head], block)
    value_bags = _starts(by_head.sum(-1).flatten() * block)

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        factors = query.reshape(-1, width).index_select(0, query_of).flatten()
        scores = _bags(keys.reshape(-1, block), key_index, key_bags, factors).view(rows, groups, blocks, ratio, block)
        # In place: a new sum would lie in memory as the bias does where there is one group, block before row.
        torch.add(bias, scores, alpha=scale, out=scores)
        weights = scores.sub_(scores.amax(-1, keepdim=True).amax(2, keepdim=True)).exp_()
        factors = weights.view(-1, block).index_select(0, weight_of).flatten()
        context = _bags(values.reshape(-1, width), value_index, value_bags, factors).view(rows, groups, ratio, width)
        return context / _in_order(weights.sum(-1).movedim(2, 0))[..., None]

    return attend


def _bags(table: Tensor, index: Tensor, starts: Tensor, factors: Tensor) -> Tensor:
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=factors)


def _runs(pieces: Tensor, length: int) -> Tensor:
    """The rows of each piece of `length` rows, piece after piece: int32."""
    return (pieces[:, None] * length + torch.arange(length)).flatten().int()


def _starts(lengths: Tensor) -> Tensor:
    """Where each of consecutive stretches begins: int32."""
    return (lengths.cumsum(0) - lengths).int()


def _in_order(terms: Tensor) -> Tensor:
    """Sum over the first dim, one after the other, so that zeros anywhere change nothing."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
