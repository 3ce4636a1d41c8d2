"""Attention over segments: each segment's queries see their prefix entirely and their own segment causally.

The plain form loops over segments; it is the definition that a device's one variable-length call has to meet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
    window: int | None = None,
) -> Tensor:
    """Bottom-right causal attention of consecutive segments.

    Within a segment the last query sees every key; query i of q sees the keys up to i + (k - q).

    Args:
        query: [T, heads, d]; segments lie one after the other.
        key: [S, groups, d] keys of segment after segment, a shared prefix repeated where it is needed.
        value: [S, groups, d].
        query_lengths: Number of queries of each segment, summing to T.
        key_lengths: Number of keys of each segment, at least its number of queries, summing to S.
        scale: Factor on the scores, usually d ** -0.5.
        window: A query sees at most this many keys, itself included; None is all.

    Returns:
        [T, heads, d] in query's dtype.
    """
    outputs = [
        _causal(q, k, v, scale, window)
        for q, k, v in zip(
            query.split(list(query_lengths)),
            key.split(list(key_lengths)),
            value.split(list(key_lengths)),
            strict=True,
        )
    ]
    return torch.cat(outputs)


def _causal(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    queries, keys = len(query), len(key)
    is_windowed = window is not None and window < keys
    mask = None
    if queries != keys or is_windowed:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    if mask is not None and window is not None:
        mask = mask.triu(keys - queries - window + 1)
    out = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[0].transpose(0, 1)
