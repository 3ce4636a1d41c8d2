"""Plans: every unit once, no budget broken, replicas in balance, pipelines busy, the same plan everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.data.batching.data_parallel_split import balance
from mindspeed_dpo.data.batching.micro_batch_plan import MicroBatchLimit, bin_pack, plan

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30)
BUDGET = 25


def plans(sizes: list[int], limit: MicroBatchLimit, replicas: int) -> list[list[list[int]]]:
    """Micro-batches of every replica; work grows with the square of a size."""
    rows = np.asarray(sizes, np.int64)
    every = (plan(rows, rows**2, limit, replicas=replicas, replica=replica) for replica in range(replicas))
    return [[part.tolist() for part in parts] for parts in every]


@given(sizes=SIZES, replicas=st.integers(1, 4), min_micro_batches=st.integers(1, 4), by_rows=st.booleans())
def test_every_unit_is_in_one_micro_batch(
    sizes: list[int], replicas: int, min_micro_batches: int, by_rows: bool
) -> None:
    limit = (
        MicroBatchLimit(rows=BUDGET, min_micro_batches=min_micro_batches)
        if by_rows
        else MicroBatchLimit(units=3, min_micro_batches=min_micro_batches)
    )
    actual = plans(sizes, limit, replicas)
    assert all(len(parts) >= min(min_micro_batches, sum(map(len, parts))) for parts in actual)
    assert sorted(unit for parts in actual for part in parts for unit in part) == list(range(len(sizes)))
    assert all(part and part == sorted(part) for parts in actual for part in parts)
    assert sum(bool(parts) for parts in actual) == min(replicas, len(sizes))
    assert actual == plans(sizes, limit, replicas)


@given(sizes=SIZES, replicas=st.integers(1, 4), min_micro_batches=st.integers(1, 4))
def test_only_a_unit_alone_is_beyond_the_budget(sizes: list[int], replicas: int, min_micro_batches: int) -> None:
    for parts in plans(sizes, MicroBatchLimit(rows=BUDGET, min_micro_batches=min_micro_batches), replicas):
        assert all(len(part) == 1 or sum(sizes[unit] for unit in part) <= BUDGET for part in parts)
        assert len(parts) >= min(min_micro_batches, sum(map(len, parts)))


@given(sizes=SIZES)
def test_packs_are_filled(sizes: list[int]) -> None:
    packs = bin_pack(np.asarray(sizes, np.int64), BUDGET)
    fills = sorted(sum(sizes[unit] for unit in pack) for pack in packs)
    # Else the two emptiest would have become one.
    assert len(fills) < 2 or fills[0] + fills[1] > BUDGET
    assert len(packs) >= -(-sum(min(size, BUDGET) for size in sizes) // BUDGET)


def test_no_pack_is_made_that_a_better_order_would_spare() -> None:
    assert sorted(map(list, bin_pack(np.array([5, 20, 10, 15, 25, 30]), BUDGET))) == [[0, 1], [2, 3], [4], [5]]


@given(sizes=SIZES, units=st.integers(1, 4), replicas=st.integers(1, 4))
def test_replicas_get_equal_numbers_where_units_count(sizes: list[int], units: int, replicas: int) -> None:
    counts = [[len(part) for part in parts] for parts in plans(sizes, MicroBatchLimit(units=units), replicas)]
    assert max(map(sum, counts)) == -(-len(sizes) // replicas)
    if len(sizes) % replicas == 0:
        assert len({sum(parts) for parts in counts}) == 1
    assert all(size == units for parts in counts for size in parts[:-1])


def test_one_replica_keeps_the_order_where_units_count() -> None:
    assert plans([3, 9, 1, 7, 5], MicroBatchLimit(units=2), 1) == [[[0, 1], [2, 3], [4]]]


@pytest.mark.parametrize("replicas", [2, 4, 8])
@pytest.mark.parametrize("space", [None, True], ids=["any number", "equal numbers"])
def test_skewed_work_is_balanced_and_better_than_by_order(replicas: int, space: bool | None) -> None:
    work = np.random.default_rng(0).lognormal(6, 1, 64).astype(np.int64)
    parts = balance(work, replicas, 64 // replicas if space else None)
    loads = [int(work[part].sum()) for part in parts]
    in_order = [int(part.sum()) for part in np.split(work, replicas)]
    assert max(loads) * replicas / sum(loads) < (1.25 if space else 1.02)
    assert max(loads) < max(in_order)


def test_work_beyond_64_bits_is_added_up() -> None:
    work = np.full(9, 2**62, np.int64)
    assert sorted(len(part) for part in balance(work, 3)) == [3, 3, 3]
