from __future__ import annotations

import pytest

from mindspeed_dpo.weights import ParallelLayout, Placement, WeightsError


def layers(layout: ParallelLayout, num_layers: int) -> dict[tuple[int, int], tuple[int | None, ...]]:
    return {(pp, chunk): placement.layers for pp, chunk, placement in layout.stages(num_layers)}


@pytest.mark.parametrize(
    ("layout", "num_layers"),
    [
        (ParallelLayout(1, 1), 5),
        (ParallelLayout(2, 3), 6),
        (ParallelLayout(1, 3, num_layer_list=(4, 1, 2)), 7),
        (ParallelLayout(1, 2, layers_per_virtual_stage=2), 8),
        (ParallelLayout(1, 2, noop_layers=(1, 3)), 4),
        (ParallelLayout(1, 2, layers_per_virtual_stage=1, noop_layers=(0, 7)), 6),
    ],
)
def test_every_layer_lies_in_exactly_one_chunk_and_the_ends_too(layout: ParallelLayout, num_layers: int) -> None:
    placements = [placement for _, _, placement in layout.stages(num_layers)]
    held = [layer for placement in placements for layer in placement.layers if layer is not None]
    assert sorted(held) == list(range(num_layers))
    assert [p.pre_process for p in placements].count(True) == 1
    assert [p.post_process for p in placements].count(True) == 1


def test_virtual_chunks_are_assigned_to_the_stages_in_turn() -> None:
    expected = {(0, 0): (0, 1), (0, 1): (4, 5), (1, 0): (2, 3), (1, 1): (6, 7)}
    layout = ParallelLayout(1, 2, layers_per_virtual_stage=2)
    assert layers(layout, 8) == expected
    assert layout.placement(8, 0, 0, 0).pre_process and layout.placement(8, 0, 1, 1).post_process
    assert not layout.placement(8, 0, 1, 0).post_process


def test_a_rank_holds_its_chunks_one_after_the_other() -> None:
    layout = ParallelLayout(1, 2, layers_per_virtual_stage=1)
    assert layout.rank_placement(6, 0, 0) == Placement(0, 1, 0, 2, (0, 2, 4), True, False)
    assert layout.rank_placement(6, 0, 1) == Placement(0, 1, 1, 2, (1, 3, 5), False, True)
    assert ParallelLayout(2, 2).rank_placement(4, 1, 1) == ParallelLayout(2, 2).placement(4, 1, 1)


def test_noops_take_a_place_but_no_layer() -> None:
    assert layers(ParallelLayout(1, 2, noop_layers=(1, 3)), 2) == {(0, 0): (0, None), (1, 0): (1, None)}


def test_layer_lists_give_uneven_stages() -> None:
    assert layers(ParallelLayout(1, 3, num_layer_list=(4, 1, 2)), 7) == {
        (0, 0): (0, 1, 2, 3),
        (1, 0): (4,),
        (2, 0): (5, 6),
    }


def test_even_is_the_short_form() -> None:
    assert ParallelLayout(tp=2, pp=2).placement(4, 1, 1) == Placement(1, 2, 1, 2, (2, 3), False, True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ParallelLayout(pp=3).placement(16, 0, 0), "3 pipeline stages do not divide 16 layers.*1, 2, 4, 8, 16"),
        (lambda: ParallelLayout(0, 1), "at least 1"),
        (lambda: ParallelLayout(1, 2, num_layer_list=(1, 1), noop_layers=(0,)), "cannot be combined"),
        (lambda: ParallelLayout(1, 1, layers_per_virtual_stage=1), "two pipeline stages"),
        (lambda: list(ParallelLayout(1, 2, num_layer_list=(1, 2)).stages(4)), "4 in all"),
        (lambda: list(ParallelLayout(1, 1, noop_layers=(9,)).stages(4)), "indices from 0 to 4"),
        (lambda: list(ParallelLayout(1, 2, layers_per_virtual_stage=3).stages(8)), "do not divide 8 layers"),
    ],
)
def test_layouts_that_do_not_fit_are_refused_with_numbers(make: object, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        make()  # type: ignore[operator]
