"""Virtual stages: a model whose processes hold several pieces of it computes what one process computes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.engine.forward_backward import group_size
from tests.support.closeness import ENGINE, ROUNDING, assert_same_run, assert_same_tensors
from tests.support.processes import pool
from tests.unit.engine import virtual_jobs
from tests.unit.engine.virtual_jobs import Deep

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

COUNTS = [1, 2, 3, 4, 5, 7, 8, 9]
"""Fewer micro-batches than stages, one group, several, and rests of every kind."""
LAYOUTS = [Deep(2, 2), Deep(2, 1), Deep(4, 1), Deep(2, 2, tied=True), Deep(4, 1, tied=True)]


@pytest.mark.parametrize("deep", LAYOUTS, ids=str)
def test_gradients_are_those_of_one_process_for_any_number_of_micro_batches(deep: Deep) -> None:
    (alone,) = pool(1).run(virtual_jobs.gradients, Deep(tied=deep.tied), COUNTS)
    ranks = pool(deep.pp).run(virtual_jobs.gradients, deep, COUNTS)
    for step, (expected, losses) in enumerate(alone):
        actual = [rank[step][0] for rank in ranks]
        assert {name for part in actual for name in part} == set(expected)
        for part in actual:
            assert_same_tensors(part, {name: expected[name] for name in part})
        # What only fills the schedule is no part of the loss.
        assert [rank[step][1] for rank in ranks[:-1]] == [[]] * (deep.pp - 1)
        assert ranks[-1][step][1] == pytest.approx(losses, rel=ROUNDING)


@pytest.mark.parametrize("deep", [Deep(2, 2), Deep(4, 1)], ids=str)
def test_scores_are_those_of_one_process_in_their_order(deep: Deep) -> None:
    (alone,) = pool(1).run(virtual_jobs.scores, Deep(), COUNTS)
    *others, last = pool(deep.pp).run(virtual_jobs.scores, deep, COUNTS)
    assert all(rank == [[]] * len(COUNTS) for rank in others)
    for mine, theirs in zip(last, alone, strict=True):
        assert_same_tensors(dict(enumerate(mine)), dict(enumerate(theirs)))


@pytest.mark.parametrize("overlap", [False, True])
def test_replicas_learn_what_one_process_learns(overlap: bool) -> None:
    ((norms, scores),) = pool(1).run(virtual_jobs.norms, Deep(tied=True), 3)
    ranks = pool(4).run(virtual_jobs.norms, Deep(2, 2, tied=True, overlap=overlap), 3)
    for actual, said in ranks:
        assert_same_run([{"grad_norm": norm} for norm in actual], [{"grad_norm": norm} for norm in norms], ENGINE)
        if said:
            assert_same_tensors(dict(enumerate(said)), dict(enumerate(scores)), bound=ENGINE.limit("later"))
    assert sum(bool(said) for _, said in ranks) == 2


@given(stages=st.integers(2, 16), more=st.integers(0, 100))
def test_a_group_leaves_no_rest_that_is_less_than_the_stages(stages: int, more: int) -> None:
    count = stages + more
    size = group_size(count, stages)
    assert stages <= size <= count
    assert count % size == 0 or count % size >= stages
