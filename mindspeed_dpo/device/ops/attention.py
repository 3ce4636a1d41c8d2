"""Attention over segments: each segment's queries see their prefix entirely and their own segment causally.

The plain form loops over segments; it is the definition that a device's one variable-length call has to meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.device.bf16_emulation import is_wanted_for
from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.limits import check_attention, check_dtypes

MASK_SIZE = 2048
"""Side of the one causal mask that `npu_fusion_attention` wants, whatever the lengths are."""
RIGHT_DOWN_CAUSAL, BAND = 3, 4


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

    Raises:
        OperatorLimit: The device's operator does not take these.
    """
    kernels = kernels_for(query)
    if kernels is None:
        return plain_segment_attention(query, key, value, query_lengths, key_lengths, scale, window)
    return _on_npu(kernels, query, key, value, query_lengths, key_lengths, scale, window)


def plain_segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
    window: int | None = None,
) -> Tensor:
    """The definition of `segment_attention`."""
    if is_wanted_for(query):
        wide = plain_segment_attention(
            query.float(), key.float(), value.float(), query_lengths, key_lengths, scale, window
        )
        return wide.to(query.dtype)
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


def _on_npu(
    kernels: Kernels,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_lengths: Sequence[int],
    key_lengths: Sequence[int],
    scale: float,
    window: int | None,
) -> Tensor:
    """`npu_fusion_attention` in layout TND: one call for all segments, which has its own backward.

    Its lengths are cumulative Python integers without a leading 0, so that nothing waits for the device; in its mask
    true means hidden. Mode 3 aligns the causal corner with a segment's last query and key, mode 4 also bounds how far a
    query looks back.
    """
    check_dtypes("npu_fusion_attention", query, key, value)
    check_attention(query, key, query_lengths, key_lengths)
    look_back = {} if window is None else {"pre_tockens": window - 1, "next_tockens": 0}
    out: Tensor = kernels.library.npu_fusion_attention(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        query.shape[1],
        "TND",
        atten_mask=hidden_mask(query.device),
        scale=scale,
        actual_seq_qlen=list(accumulate(query_lengths)),
        actual_seq_kvlen=list(accumulate(key_lengths)),
        sparse_mode=RIGHT_DOWN_CAUSAL if window is None else BAND,
        **look_back,
    )[0]
    return out


@lru_cache(maxsize=8)
def hidden_mask(device: torch.device) -> Tensor:
    """[2048, 2048] bool, true above the diagonal; one for all layers and lengths of a device."""
    with torch.inference_mode(False):
        return torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=device).triu(1)
