"""The order of rows: a pure function of the step that loses and doubles nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.data.datasets.splits_and_blending import DataSource, mix_rows, parse_data_path, split_rows

SIZES = {"rows": st.integers(1, 30), "batch": st.integers(1, 40), "seed": st.integers(0, 5)}


@given(**SIZES, shuffle=st.booleans())
def test_every_epoch_holds_every_row_once(rows: int, batch: int, seed: int, shuffle: bool) -> None:
    sampler = PairSampler(rows, batch, seed, shuffle)
    stream = np.concatenate([sampler.rows(step) for step in range(-(-3 * rows // batch))])
    for epoch in range(3):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@given(**SIZES, step=st.integers(0, 100))
def test_a_step_is_the_same_whenever_it_is_computed(rows: int, batch: int, seed: int, step: int) -> None:
    fresh, used = PairSampler(rows, batch, seed, True), PairSampler(rows, batch, seed, True)
    for earlier in range(3):
        used.rows(earlier)
    assert fresh.rows(step).tolist() == used.rows(step).tolist()
    assert fresh.rows(step).dtype == np.int64 and fresh.rows(step).shape == (batch,)


@given(**SIZES, consumed=st.integers(0, 50))
def test_the_order_of_samples_does_not_depend_on_the_batch_size(
    rows: int, batch: int, seed: int, consumed: int
) -> None:
    one, other = PairSampler(rows, batch, seed), PairSampler(rows, 1, seed)
    singles = [int(other.rows(sample)[0]) for sample in range(consumed, consumed + batch)]
    assert one.window(consumed, batch).tolist() == singles


def test_without_shuffle_rows_come_in_order() -> None:
    sampler = PairSampler(3, 2, seed=1, shuffle=False)
    assert [sampler.rows(step).tolist() for step in range(3)] == [[0, 1], [2, 0], [1, 2]]


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    sampler = PairSampler(50, 50, seed=1)
    orders = [sampler.rows(0).tolist(), sampler.rows(1).tolist(), PairSampler(50, 50, seed=2).rows(0).tolist()]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == np.random.default_rng([1, 0]).permutation(50).tolist()


def test_epochs_are_counted_in_rows() -> None:
    assert [PairSampler(4, 2, 0).epoch(step) for step in range(4)] == [0.0, 0.5, 1.0, 1.5]


def test_a_sampler_travels_to_other_processes() -> None:
    sampler = PairSampler(10, 3, 7)
    sampler.rows(0)
    assert pickle.loads(pickle.dumps(sampler)).rows(5).tolist() == sampler.rows(5).tolist()


@pytest.mark.parametrize(("rows", "batch"), [(0, 1), (1, 0)])
def test_a_sampler_needs_rows_and_a_batch(rows: int, batch: int) -> None:
    with pytest.raises(ValueError, match="needs rows and a batch size of at least 1"):
        PairSampler(rows, batch, 0)


# Splits and mixtures


@given(rows=st.integers(0, 1000), shares=st.lists(st.integers(0, 100), min_size=3, max_size=3).filter(any))
def test_a_split_covers_every_row_once(rows: int, shares: list[int]) -> None:
    parts = split_rows(rows, ",".join(map(str, shares)))
    assert [row for part in parts for row in part] == list(range(rows))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - rows * share / sum(shares)) <= 1


@pytest.mark.parametrize(
    ("split", "lengths"), [("100,0,0", [10, 0, 0]), ("90,10", [9, 1, 0]), ("0.8,0.1,0.1", [8, 1, 1]), ("1", [10, 0, 0])]
)
def test_shares_are_normalised(split: str, lengths: list[int]) -> None:
    assert [len(part) for part in split_rows(10, split)] == lengths


@pytest.mark.parametrize("split", ["", "a,b", "0,0,0", "-1,2,0", "1,1,1,1"])
def test_a_split_that_is_none_gets_a_sentence(split: str) -> None:
    with pytest.raises(ValueError, match="split should be up to three shares"):
        split_rows(10, split)


@pytest.mark.parametrize(
    ("data_path", "expected"),
    [
        ("a", [DataSource("a")]),
        ("a,b", [DataSource("a"), DataSource("b")]),
        (" 0.3,a , 0.7,b", [DataSource("a", 0.3), DataSource("b", 0.7)]),
        ("1,a", [DataSource("a", 1.0)]),
    ],
)
def test_data_paths_are_prefixes_with_or_without_weights(data_path: str, expected: list[DataSource]) -> None:
    assert parse_data_path(data_path) == expected


@pytest.mark.parametrize("data_path", ["", "0.3,a,b", "a,0.3,b,0.7", "0.3,a,0.7", "0,a,1,b"])
def test_data_paths_with_some_weights_are_refused(data_path: str) -> None:
    with pytest.raises(ValueError, match="data_path"):
        parse_data_path(data_path)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 9), min_size=4, max_size=4),
)
def test_a_mixture_holds_every_row_in_the_given_proportions(sizes: list[int], weights: list[int]) -> None:
    starts = np.cumsum([0, *sizes])
    parts = [np.arange(size, dtype=np.int64) + start for size, start in zip(sizes, starts, strict=False)]
    mixed = mix_rows(parts, weights[: len(parts)])
    assert set(mixed) == set(range(sum(sizes)))
    for part, weight in zip(parts, weights, strict=False):
        share = weight / sum(weights[: len(parts)])
        assert abs(np.isin(mixed, part).sum() - share * len(mixed)) <= len(parts)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 3), (5, 4), (2, 10), (6, 13), (0, 7), (3, 11), (3, 30)])
def test_distinct_rows_are_those_of_the_window(first: int, count: int, shuffle: bool) -> None:
    sampler = PairSampler(7, 2, seed=3, shuffle=shuffle)
    expected = sorted(set(sampler.window(first, count).tolist())) if count else []
    assert sampler.distinct_rows(first, count).tolist() == expected
