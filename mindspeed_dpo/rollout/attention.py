"""Attention of one new token per row over a cache of fixed blocks.

Every block is multiplied alone, in a shape that never changes, and blocks are added one after the other. A block past a
row's end adds exact zeros, so a row's result is bitwise the same however long its neighbours are; one call over the
whole length would choose its order of summation by that length.
Letters: c blocks, B positions of a block, R rows, G query groups here, r query heads of a group, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_bias(positions: Tensor, first: int, last: int, block: int, window: int | None) -> Tensor:
    """0 where a row sees a key and minus infinity elsewhere.

    Args:
        positions: [R] int64 position of each row's query; it sees itself and what is before it.
        first: First block.
        last: Past the last block.
        block: Positions of a block.
        window: A query sees at most this many keys, itself included; None is all.

    Returns:
        [last - first, R, 1, 1, B] float32.
    """
    keys = torch.arange(first * block, last * block, device=positions.device).view(-1, 1, block)
    own = positions.view(1, -1, 1)
    hidden = keys > own
    if window is not None:
        hidden |= keys <= own - window
    bias = torch.zeros(hidden.shape, dtype=torch.float32, device=positions.device)
    return bias.masked_fill_(hidden, float("-inf"))[:, :, None, None]


def block_attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Softmax attention of each row over its own blocks; scores and sums in float32.

    Args:
        query: [R, G, r, d].
        keys: [c, R, G, B, d], contiguous.
        values: [c, R, G, B, d], contiguous and finite also where nothing is visible.
        bias: [c, R, 1, 1, B] float32 of `visible_bias`.
        scale: Factor on the scores.

    Returns:
        [R, G, r, d] in query's dtype.
    """
    blocks = len(keys)
    repeated = query.expand(blocks, *query.shape).flatten(0, 2)
    scores = torch.bmm(repeated, keys.flatten(0, 2).transpose(1, 2)).view(blocks, *query.shape[:3], -1)
    scores = torch.add(bias, scores.float(), alpha=scale)
    weights = scores.sub_(scores.amax(-1, keepdim=True).amax(0)).exp_()
    context = torch.bmm(weights.to(values.dtype).flatten(0, 2), values.flatten(0, 2)).view(blocks, *query.shape)
    total = _in_order(weights.sum(-1, keepdim=True))
    return (_in_order(context.float()) / total).to(query.dtype)


def _in_order(terms: Tensor) -> Tensor:
    """Sum over the first dim, one after the other, so that zeros anywhere change nothing."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
