"""Limits of torch_npu's operators, checked before each call because the device's own errors do not name the cause.

Limits that follow from the settings are checked on the driver already (`config.validation.npu_limits`), if it knows the
device. The figures are from the vendor's documentation in the wheel of torch_npu 2.13.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mindspeed_dpo.config.validation.npu_limits import NPU_MAX_HEAD_WIDTH, NPU_MAX_HEADS

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
HALF_DTYPES = (torch.float16, torch.bfloat16)
ATTENTION_TOKENS = 1 << 20
ATTENTION_SEGMENTS = 1024
ROTARY_WIDTH = 895
ROTARY_HEADS = 999


class OperatorLimit(ValueError):
    """An operator of the device does not support its arguments; the message says what it supports."""


def require(holds: bool, operator: str, expected: str, actual: object, remedy: str) -> None:
    """Raise an error that names the limit unless it holds.

    Raises:
        OperatorLimit: `holds` is false.
    """
    if not holds:
        raise OperatorLimit(f"device=npu: {operator} takes {expected}, got {actual}; {remedy}")


def check_dtypes(operator: str, *tensors: Tensor, allowed: Sequence[torch.dtype] = DTYPES) -> None:
    """Check that tensors, of any shape, have the same dtype and that it is allowed for these values.

    Raises:
        OperatorLimit: The dtypes differ or are unsupported.
    """
    dtypes = {tensor.dtype for tensor in tensors}
    names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
    shown = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    require(len(dtypes) == 1 and dtypes <= set(allowed), operator, f"tensors of one dtype, {names}", shown, "set bf16")


def check_attention(query: Tensor, key: Tensor, query_lengths: Sequence[int], key_lengths: Sequence[int]) -> None:
    """Check the limits of `npu_fusion_attention` in layout TND.

    Args:
        query: [T, heads, d] activations of any float dtype.
        key: [S, groups, d] activations.
        query_lengths: Number of queries of each segment.
        key_lengths: Number of keys of each segment.

    Raises:
        OperatorLimit: A limit is exceeded.
    """
    name = "npu_fusion_attention"
    heads, groups, width = query.shape[1], key.shape[1], query.shape[2]
    split = "raise tensor_model_parallel_size"
    fewer = "lower micro_batch_size, micro_batch_tokens or seq_length"
    require(
        1 <= width <= NPU_MAX_HEAD_WIDTH, name, f"heads at most {NPU_MAX_HEAD_WIDTH} wide", width, "use another model"
    )
    require(heads <= NPU_MAX_HEADS, name, f"at most {NPU_MAX_HEADS} heads", heads, split)
    require(heads % groups == 0, name, f"heads that {groups} query groups divide", heads, "correct num_query_groups")
    segments = len(query_lengths)
    require(segments <= ATTENTION_SEGMENTS, name, f"at most {ATTENTION_SEGMENTS} segments", segments, fewer)
    longest = max(len(query), len(key))
    require(longest <= ATTENTION_TOKENS, name, f"at most {ATTENTION_TOKENS} tokens in a row", longest, fewer)
    require(
        bool(query_lengths) and query_lengths[0] > 0,
        name,
        "a first segment that is not empty",
        list(query_lengths[:1]),
        "remove empty rows from the data",
    )
    longer = [(q, k) for q, k in zip(query_lengths, key_lengths, strict=True) if q > k]
    require(not longer, name, "segments with at least as many keys as queries", longer[:1], "correct the segments")
    sums = (sum(query_lengths), sum(key_lengths))
    require(
        sums == (len(query), len(key)), name, f"lengths that sum to {len(query)} and {len(key)}", sums, "correct them"
    )
