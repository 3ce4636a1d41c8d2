"""Contiguous shares of the replicas: everything once, in order, evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.data.batching.data_parallel_split import shard


@given(st.integers(0, 60), st.integers(1, 9))
def test_shards_cover_everything_once_in_order_and_evenly(count: int, dp: int) -> None:
    shards = [shard(count, rank, dp) for rank in range(dp)]
    assert [item for part in shards for item in part] == list(range(count))
    sizes = [len(part) for part in shards]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
