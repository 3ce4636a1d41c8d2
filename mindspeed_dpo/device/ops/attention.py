"""Attention over segments: queries attend to all of their prefix and causally to their own segment.

The plain form loops over segments and is the definition that a device's single variable-length call must match.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from mindspeed_dpo.device.bf16_emulation import is_faster_in_float32
from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.operator_limits import check_attention, check_dtypes

MASK_SIZE = 2048
"""Size of the causal mask that `npu_fusion_attention` requires for all lengths."""
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
        query: [T, heads, d] of any float dtype, segment after segment.
        key: [S, groups, d] keys, segment after segment; a shared prefix is repeated for each segment.
        value: [S, groups, d] values.
        query_lengths: Number of queries of each segment, summing to T.
        key_lengths: Number of keys of each segment, at least its number of queries, summing to S.
        scale: Factor of the scores, usually d ** -0.5.
        window: Number of keys that a query attends to at most, including itself; None for all.

    Returns:
        [T, heads, d] in query's dtype.

    Raises:
        OperatorLimit: The device's operator does not support these shapes or dtypes.
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
    """Compute `segment_attention` by a loop over segments: activations [T, heads, d] in the dtype of query."""
    if is_faster_in_float32(query):
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
    """Call `npu_fusion_attention` in layout TND, once for all segments; it has its own backward.

    Lengths are cumulative Python integers without a leading 0, so the call does not synchronise; True in its mask
    means masked. Mode 3 aligns the causal mask with the last query and key of a segment, mode 4 adds a window.
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
        atten_mask=causal_mask(query.device),
        scale=scale,
        actual_seq_qlen=list(accumulate(query_lengths)),
        actual_seq_kvlen=list(accumulate(key_lengths)),
        sparse_mode=RIGHT_DOWN_CAUSAL if window is None else BAND,
        **look_back,
    )[0]
    return out


@lru_cache(maxsize=8)
def causal_mask(device: torch.device) -> Tensor:
    """Return the mask [2048, 2048] bool, True above the diagonal, shared by all layers of a device."""
    with torch.inference_mode(False):
        return torch.ones(MASK_SIZE, MASK_SIZE, dtype=torch.bool, device=device).triu(1)
