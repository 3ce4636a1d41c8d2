"""Buckets: every row once, in order, never more bytes than allowed, one data type each."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.weights import WeightsError
from mindspeed_dpo.weights.resharding.buckets import buckets
from mindspeed_dpo.weights.resharding.shards import TensorSpec

SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=2).map(tuple)
TENSORS = st.lists(st.tuples(SHAPES, st.sampled_from(["float32", "bfloat16"])), min_size=1, max_size=6).map(
    lambda actual: [TensorSpec(f"t{index}", shape, dtype) for index, (shape, dtype) in enumerate(actual)]
)


@given(TENSORS, st.integers(36, 400))
def test_every_row_travels_once_in_order_within_the_bound(tensors: list[TensorSpec], limit: int) -> None:
    made = list(buckets(tensors, 3, limit))
    rows = [(piece.name, row) for bucket in made for piece in bucket.slices for row in range(piece.start, piece.stop)]
    assert rows == [(tensor.name, row) for tensor in tensors for row in range(tensor.shape[0])]
    dtypes = {tensor.name: tensor.dtype for tensor in tensors}
    for bucket in made:
        assert 0 < bucket.num_bytes <= limit and bucket.source == 3
        assert {f"torch.{dtypes[piece.name]}" for piece in bucket.slices} == {str(bucket.dtype)}
        ends = [0, *(piece.offset + piece.numel for piece in bucket.slices)]
        assert [piece.offset for piece in bucket.slices] == ends[:-1]


@given(TENSORS)
def test_one_large_bucket_takes_all_neighbours_of_one_type(tensors: list[TensorSpec]) -> None:
    changes = sum(one.dtype != other.dtype for one, other in itertools.pairwise(tensors))
    made = list(buckets(tensors, 0, 1 << 20))
    assert len(made) == 1 + changes
    assert sum(bucket.numel for bucket in made) == sum(math.prod(tensor.shape) for tensor in tensors)


def test_a_row_that_fits_no_bucket_is_refused_with_the_size_it_needs() -> None:
    with pytest.raises(
        WeightsError, match=r"publish_bucket_bytes=63 is smaller than a row of w, .* set it to at least 64"
    ):
        list(buckets([TensorSpec("w", (2, 16), "float32")], 0, 63))
    assert len(list(buckets([TensorSpec("w", (2, 16), "float32")], 0, 64))) == 2
