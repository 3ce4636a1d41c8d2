"""Process groups: our places are megatron-core's, generators differ where they should, leaving leaves nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mindspeed_dpo.parallel.topology import Topology
from tests.support.processes import pool
from tests.unit.parallel.group_jobs import Seen, stand, summed_over_ranks

pytestmark = pytest.mark.distributed

LAYOUTS = [
    (1, 1, 1),
    (2, 1, 1),
    (1, 2, 1),
    (1, 1, 2),
    (4, 1, 1),
    (2, 2, 1),
    (2, 1, 2),
    (1, 2, 2),
    (1, 1, 4),
    (2, 1, 1, 2),
    (1, 2, 1, 2),
    (1, 1, 2, 2),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_places_are_those_of_megatron(layout: tuple[int, ...]) -> None:
    topology = Topology(*layout)
    for rank, seen in enumerate(look_around(topology)):
        assert seen.ours == seen.theirs, rank
        assert seen.sizes == (topology.tp, topology.dp, topology.pp, topology.cp)
        assert seen.copies == topology.dp * topology.cp


def test_groups_of_the_same_ranks_are_one_group_with_threads_once() -> None:
    assert look_around(Topology())[0].groups == ((0,),)
    seen = look_around(Topology(tp=2, dp=2))
    assert seen[0].groups == ((0,), (0, 1), (0, 1, 2, 3), (0, 2))
    assert seen[3].groups == ((0, 1, 2, 3), (1, 3), (2, 3), (3,))


def test_a_sum_over_replicas_meets_the_ranks_that_share_the_other_axes() -> None:
    assert [seen.replica_sum for seen in look_around(Topology(tp=2, dp=2))] == [2, 4, 2, 4]
    assert [seen.replica_sum for seen in look_around(Topology(cp=2, dp=2))] == [2, 4, 2, 4]
    assert [seen.replica_sum for seen in look_around(Topology(pp=2, dp=2))] == [1, 1, 5, 5]


def test_tensor_ranks_share_their_draws_except_inside_tensor_parallel_regions() -> None:
    seen = look_around(Topology(tp=2, pp=2))
    assert seen[0].drawn == seen[1].drawn and seen[2].drawn == seen[3].drawn
    assert seen[0].drawn != seen[2].drawn
    assert len({one.drawn_for_tensor_parallel for one in seen}) == 4


def test_replicas_draw_the_same_and_the_seed_decides_what() -> None:
    assert len({one.drawn for one in look_around(Topology(cp=2))}) == 1
    first, second = look_around(Topology(dp=2))
    assert first.drawn == second.drawn and first.drawn_for_tensor_parallel == second.drawn_for_tensor_parallel
    again, other = look_around(Topology(dp=2))[0], look_around(Topology(dp=2), seed=8)[0]
    assert again.drawn == first.drawn != other.drawn


def test_leaving_ends_everything_and_can_be_followed_by_joining() -> None:
    module = "tests.unit.parallel.group_jobs"
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


def look_around(topology: Topology, seed: int = 7) -> list[Seen]:
    return pool(topology.world_size).run(stand, topology, seed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_over_ranks_are_exact_and_alike_on_all(dtype: torch.dtype) -> None:
    # Added one after another in float32 the ones would be lost.
    values = [[2.0**24, 1.0], [1.0, 2.0], [1.0, 4.0]]
    actual = pool(3).run(summed_over_ranks, values, dtype)
    assert [one.tolist() for one in actual] == [[2.0**24 + 2, 7.0]] * 3
