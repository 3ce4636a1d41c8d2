"""Segment attention against a softmax written out query by query in float64: values, gradients, what is visible."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mindspeed_dpo.device.ops import segment_attention

pytestmark = pytest.mark.numerics

Segments = list[tuple[int, int]]
"""(queries, keys before the first query) of each segment."""
SEGMENTS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), min_size=1, max_size=4)
HEADS = [(4, 4), (4, 2), (3, 1)]


def lengths_of(segments: Segments) -> tuple[list[int], list[int]]:
    return [queries for queries, _ in segments], [queries + prefix for queries, prefix in segments]


def inputs(segments: Segments, heads: int, groups: int, dtype: torch.dtype, width: int = 6) -> list[Tensor]:
    torch.manual_seed(0)
    queries, keys = (sum(lengths) for lengths in lengths_of(segments))
    shapes = [(queries, heads, width), (keys, groups, width), (keys, groups, width)]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Sequence[int],
    keys: Sequence[int],
    scale: float,
    window: int | None = None,
) -> Tensor:
    """The definition: query i of q sees keys up to i + (k - q) of its segment, the last `window` of them."""
    query, key, value = query.double(), key.double(), value.double()
    per_group = query.shape[1] // key.shape[1]
    rows, first_query, first_key = [], 0, 0
    for q, k in zip(queries, keys, strict=True):
        for i in range(q):
            end = first_key + k - q + i + 1
            seen = slice(max(first_key, end - window) if window else first_key, end)
            heads = []
            for head in range(query.shape[1]):
                scores = key[seen, head // per_group] @ query[first_query + i, head] * scale
                weights = scores.exp() / scores.exp().sum()
                heads.append(weights @ value[seen, head // per_group])
            rows.append(torch.stack(heads))
        first_query, first_key = first_query + q, first_key + k
    return torch.stack(rows)


@pytest.mark.parametrize(("heads", "groups"), HEADS)
@settings(max_examples=40)
@given(segments=SEGMENTS, window=st.one_of(st.none(), st.integers(1, 9)))
def test_attention_and_its_gradient_follow_the_definition(
    heads: int, groups: int, segments: Segments, window: int | None
) -> None:
    tensors = inputs(segments, heads, groups, torch.float64)
    actual = segment_attention(*tensors, *lengths_of(segments), 0.3, window)
    expected = one_by_one(*tensors, *lengths_of(segments), 0.3, window)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(out, tensors, upstream) for out in (actual, expected))
    for name, one, other in zip(("query", "key", "value"), ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_result_has_the_dtype_of_the_query(dtype: torch.dtype, tolerance: float) -> None:
    segments = [(3, 0), (1, 3), (4, 3), (1, 0)]
    tensors = inputs(segments, 4, 2, dtype)
    actual = segment_attention(*tensors, *lengths_of(segments), scale=0.4)
    assert actual.dtype == dtype and actual.shape == (9, 4, 6)
    expected = one_by_one(*tensors, *lengths_of(segments), scale=0.4)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def test_a_single_query_with_a_single_key_returns_its_value() -> None:
    query, key, value = inputs([(1, 0)], 2, 2, torch.float64)
    torch.testing.assert_close(segment_attention(query, key, value, [1], [1], scale=5.0), value)


def test_scores_are_scaled_as_requested() -> None:
    query, key, value = inputs([(2, 3)], 2, 2, torch.float64)
    actual = segment_attention(query, key, value, [2], [5], scale=0.7)
    torch.testing.assert_close(actual, segment_attention(query * 0.7, key, value, [2], [5], scale=1.0))


@pytest.mark.parametrize("queries", [[4], [6], [2, 2]])
def test_lengths_that_do_not_describe_the_tensors_are_refused(queries: list[int]) -> None:
    tensors = inputs([(5, 0)], 2, 2, torch.float64)
    with pytest.raises((ValueError, RuntimeError)):
        segment_attention(*tensors, queries, [5], scale=1.0)
