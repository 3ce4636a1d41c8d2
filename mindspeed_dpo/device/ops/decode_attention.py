"""Attention of one new token per row over a KV cache in blocks of fixed size.

The result of a row does not depend bitwise on the lengths of other rows: each block is multiplied separately, in a
fixed shape, and blocks are summed in order. A single call over the full length would choose the order by length.

Notation: c blocks, B positions per block, R rows, S slots that hold keys, G query groups of this rank, r query heads
per group, d head dimension. Keys are stored transposed, [d, B], so that the scores of a query with a block are a sum
of d rows of B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BlockAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps query [R, G, r, d], keys [c, S, G, d, B] and values [c, S, G, B, d] to [R, G, r, d] in the dtype of query."""


@dataclass(frozen=True)
class VisibleKeys:
    """The keys that each row of a decoding pass attends to.

    `VisibleKeys(tensor([5, 70]), first=0, last=2, block=64)`: row 0 sees keys 0 to 5, row 1 keys 0 to 70 in two blocks.

    Attributes:
        positions: [R] int64 position of each row's query, which attends to itself and to earlier positions.
        first: First block that any row attends to.
        last: One past the last such block.
        block: Positions per block.
        window: Number of keys that a query attends to at most, including itself; None for all.
        shared_prefixes: [R, 2] int64: a slot whose first blocks are identical, possibly the row's own, and the number
            of these blocks. Reading them there gives the same bits and hits the processor's cache.
        slots: [R] int64 slot of each row; None if these are 0 to R - 1 and no slot is without a row.
        num_slots: S; of no concern without `slots`.
    """

    positions: Tensor
    first: int
    last: int
    block: int
    window: int | None = None
    shared_prefixes: Tensor | None = None
    slots: Tensor | None = None
    num_slots: int = 0

    def bias(self) -> Tensor:
        """Return the mask [c, R, B] float32 to add to scores: 0 for visible keys and minus infinity for others."""
        device = self.positions.device
        keys = torch.arange(self.first * self.block, self.last * self.block, device=device).view(-1, 1, self.block)
        own = self.positions.view(1, -1, 1)
        hidden = keys > own
        if self.window is not None:
            hidden |= keys <= own - self.window
        return torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))

    def own_blocks(self) -> Tensor:
        """Return the mask [R, c] bool of the blocks with keys that a row attends to."""
        blocks = torch.arange(self.first, self.last, device=self.positions.device)
        own = blocks <= self.positions[:, None] // self.block
        if self.window is not None:
            own &= blocks >= (self.positions[:, None] - self.window + 1).clamp(min=0) // self.block
        return own


def block_attention(
    visible: VisibleKeys, heads: tuple[int, int, int], scale: float, dtype: torch.dtype
) -> BlockAttention:
    """Build softmax attention of each row over its own blocks, with float32 scores and sums, for use in every layer.

    Args:
        visible: The keys that each row attends to.
        heads: G, r and d.
        scale: Factor of the scores.
        dtype: dtype of query [R, G, r, d], keys and values; masked keys must be finite.
    """
    if _on_host_in_float32(visible.positions.device, dtype):
        return by_embedding_bags(visible, heads, scale)
    return by_matrix_products(visible, scale)


def attends_by_slot(states: Tensor) -> bool:
    """Return whether passes over some slots only are cheap; states of any shape, dtype and any unit, as the keys."""
    return _on_host_in_float32(states.device, states.dtype)


def _on_host_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cpu" and dtype == torch.float32


def by_matrix_products(visible: VisibleKeys, scale: float) -> BlockAttention:
    """Build the plain definition: batched products over all blocks, activations [R, G, r, d] of any float dtype."""
    bias = visible.bias()[:, :, None, None]

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if visible.slots is not None:
            keys, values = keys.index_select(1, visible.slots), values.index_select(1, visible.slots)
        blocks = len(keys)
        repeated = query.expand(blocks, *query.shape).flatten(0, 2)
        scores = torch.bmm(repeated, keys.flatten(0, 2)).view(blocks, *query.shape[:3], -1)
        scores = torch.add(bias, scores.float(), alpha=scale)
        weights = scores.sub_(scores.amax(-1, keepdim=True).amax(0)).exp_()
        context = torch.bmm(weights.to(values.dtype).flatten(0, 2), values.flatten(0, 2)).view(blocks, *query.shape)
        total = _in_order(weights.sum(-1, keepdim=True))
        return (_in_order(context.float()) / total).to(query.dtype)

    return attend


def by_embedding_bags(visible: VisibleKeys, heads: tuple[int, int, int], scale: float) -> BlockAttention:
    """Build the same on the host from weighted sums of table rows (`embedding_bag`) over a row's own blocks only.

    Matrix products with r rows leave most of a processor unused; these sums run at memory bandwidth. The terms of a sum
    are added in order. Query and result are activations [R, G, r, d] float32.
    """
    (groups, ratio, width), block = heads, visible.block
    own = visible.own_blocks()
    rows, blocks = own.shape
    bias = visible.bias().transpose(0, 1)[:, None, :, None]
    row, group, number, head = torch.meshgrid(*map(torch.arange, (rows, groups, blocks, ratio)), indexing="ij")
    seen = own[:, None, :, None].expand(row.shape)
    own_slot = row if visible.slots is None else visible.slots[row]
    stored_in = own_slot
    if visible.shared_prefixes is not None:
        source, count = (column[:, None, None, None] for column in visible.shared_prefixes.unbind(1))
        stored_in = source.where(number + visible.first < count, own_slot)
    piece = (number * (rows if visible.slots is None else visible.num_slots) + stored_in) * groups + group
    # Bags of the scores: every (row, group, block, head), even empty ones; bags of the context: (row, group, head).
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
        # In place: with one group a new tensor would take the memory layout of the bias, block before row.
        torch.add(bias, scores, alpha=scale, out=scores)
        weights = scores.sub_(scores.amax(-1, keepdim=True).amax(2, keepdim=True)).exp_()
        factors = weights.view(-1, block).index_select(0, weight_of).flatten()
        context = _bags(values.reshape(-1, width), value_index, value_bags, factors).view(rows, groups, ratio, width)
        return context / _in_order(weights.sum(-1).movedim(2, 0))[..., None]

    return attend


def _bags(table: Tensor, index: Tensor, starts: Tensor, factors: Tensor) -> Tensor:
    return F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=factors)


def _runs(pieces: Tensor, length: int) -> Tensor:
    """Return the row indices of each piece of `length` rows, piece after piece, as int32."""
    return (pieces[:, None] * length + torch.arange(length)).flatten().int()


def _starts(lengths: Tensor) -> Tensor:
    """Return the start of each of consecutive runs, as int32."""
    return (lengths.cumsum(0) - lengths).int()


def _in_order(terms: Tensor) -> Tensor:
    """Sum over the first dimension in order, so that additional zeros do not change the result."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
