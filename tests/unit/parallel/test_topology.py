"""Topology as integers: megatron-core's ranks, a bijection, shards that lose nothing."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.parallel_state import RankGenerator

from mindspeed_dpo.parallel.topology import Topology

SIZES = st.integers(1, 4)
TOPOLOGIES = st.builds(Topology, tp=SIZES, pp=SIZES, dp=SIZES, cp=SIZES)


def places(topology: Topology) -> dict[tuple[int, int, int, int], int]:
    actual = {rank: topology.place(rank) for rank in range(topology.world_size)}
    return {(place.tp_rank, place.cp_rank, place.dp_rank, place.pp_rank): rank for rank, place in actual.items()}


@given(TOPOLOGIES)
def test_every_rank_has_a_place_of_its_own(topology: Topology) -> None:
    cells = product(*map(range, (topology.tp, topology.cp, topology.dp, topology.pp)))
    assert sorted(places(topology)) == sorted(cells)


@given(TOPOLOGIES)
def test_ranks_along_each_axis_are_those_of_megatron(topology: Topology) -> None:
    theirs = RankGenerator(tp=topology.tp, ep=1, dp=topology.dp, pp=topology.pp, cp=topology.cp, order="tp-cp-ep-dp-pp")
    ours = places(topology)
    for axis, name in enumerate(("tp", "cp", "dp", "pp")):
        lines: dict[tuple[int, ...], list[int]] = {}
        for cell in sorted(ours):
            lines.setdefault(cell[:axis] + cell[axis + 1 :], []).append(ours[cell])
        assert sorted(lines.values()) == sorted(theirs.get_ranks(name)), name


@given(TOPOLOGIES)
def test_one_process_of_each_replica_speaks_and_replicas_follow_in_rank_order(topology: Topology) -> None:
    speakers = [place for place in map(topology.place, range(topology.world_size)) if place.is_output]
    assert [place.dp_rank for place in speakers] == list(range(topology.dp))
    assert all((place.tp_rank, place.cp_rank, place.pp_rank) == (0, 0, topology.pp - 1) for place in speakers)


@given(TOPOLOGIES)
def test_the_first_and_the_last_stage_are_marked(topology: Topology) -> None:
    for place in map(topology.place, range(topology.world_size)):
        assert place.is_last_stage == (place.pp_rank == topology.pp - 1)


@given(TOPOLOGIES)
def test_the_data_parallel_size_follows_from_the_processes(topology: Topology) -> None:
    assert Topology.of(topology.world_size, topology.tp, topology.pp, topology.cp) == topology


@pytest.mark.parametrize(("world_size", "tp", "pp", "cp"), [(6, 4, 1, 1), (2, 2, 2, 1), (7, 1, 2, 1), (4, 1, 2, 4)])
def test_processes_that_do_not_divide_are_refused(world_size: int, tp: int, pp: int, cp: int) -> None:
    sentence = rf"{world_size} processes .*={tp} times .*={cp} times .*={pp}; use a multiple of {tp * pp * cp} "
    with pytest.raises(ValueError, match=sentence):
        Topology.of(world_size, tp, pp, cp)


@given(TOPOLOGIES)
def test_the_first_copy_of_the_weights_is_complete_and_there_once(topology: Topology) -> None:
    copies = [place for place in map(topology.place, range(topology.world_size)) if place.holds_first_copy]
    parts = [(place.pp_rank, place.tp_rank) for place in copies]
    assert parts == list(product(range(topology.pp), range(topology.tp)))
