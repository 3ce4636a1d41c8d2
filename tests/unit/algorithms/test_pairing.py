"""Pairs among sampled answers: of one prompt, the better one first; ties, failures and twins are left out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mindspeed_dpo.algorithms.pairing import FAILED, IDENTICAL, MARGIN, RULES, TIE, Selection, select_pairs
from mindspeed_dpo.batches import PreferenceBatch

NAN = float("nan")


def answers_of(prompts: int, count: int, twins: Sequence[tuple[int, int, int]] = ()) -> PreferenceBatch:
    """Responses that all differ, but for `twins`: (prompt, k, another k that gets the same tokens)."""
    tokens = [[[100 * p + k, k + 1] for k in range(count)] for p in range(prompts)]
    for p, k, other in twins:
        tokens[p][other] = tokens[p][k]
    return PreferenceBatch.from_lists([[p + 1] for p in range(prompts)], tokens)


def select(scores: list[list[float]], rule: str = "best_worst", **options: object) -> Selection:
    twins = options.pop("twins", ())
    batch = answers_of(len(scores), len(scores[0]), twins)  # type: ignore[arg-type]
    values = np.array(scores, np.float32)
    return select_pairs(batch, values, rule=rule, seed=(1, 2), **options)  # type: ignore[arg-type]


def triples(selection: Selection) -> list[tuple[int, int, int]]:
    return [(p, *pair) for p, pair in zip(selection.prompts.tolist(), selection.responses.tolist(), strict=True)]


SCORES = arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(2, 5)), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, NAN])
)


@given(scores=SCORES, rule=st.sampled_from(sorted(RULES)), margin=st.sampled_from([0.0, 0.75]))
def test_every_pair_is_of_one_prompt_with_the_better_score_first(scores: np.ndarray, rule: str, margin: float) -> None:
    found = select_pairs(answers_of(*scores.shape), scores, rule=rule, min_margin=margin, seed=(0, 7))
    for prompt, better, worse in triples(found):
        assert scores[prompt, better] > scores[prompt, worse]
        assert scores[prompt, better] - scores[prompt, worse] >= margin
    assert len(found) + sum(found.left_out.values()) == found.candidates
    assert triples(found) == sorted(triples(found), key=lambda triple: triple[0])


@given(scores=SCORES, data=st.data())
def test_permuting_prompts_permutes_the_pairs(scores: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    batch = answers_of(*scores.shape)
    whole = {p: pair for p, *pair in triples(select_pairs(batch, scores, rule="best_worst", seed=(0,)))}
    moved = select_pairs(batch.select(order), scores[list(order)], rule="best_worst", seed=(0,))
    assert {order[p]: pair for p, *pair in triples(moved)} == whole


@given(scores=SCORES)
def test_all_takes_every_two_with_different_scores(scores: np.ndarray) -> None:
    expected = {
        (p, i, j) if row[i] > row[j] else (p, j, i)
        for p, row in enumerate(scores)
        for i, j in itertools.combinations(range(len(row)), 2)
        if np.isfinite(row[i] - row[j]) and row[i] != row[j]
    }
    found = select_pairs(answers_of(*scores.shape), scores, rule="all", seed=(0,))
    assert set(triples(found)) == expected and len(found) == len(expected)


def test_best_meets_worst() -> None:
    assert triples(select([[1, 3, 2], [0, -5, 9]])) == [(0, 1, 0), (1, 2, 1)]


def test_ties_failures_and_twins_are_left_out_and_counted() -> None:
    found = select([[1, 1], [1, NAN], [2, 1], [2, 1]], twins=[(2, 0, 1)])
    assert triples(found) == [(3, 0, 1)]
    assert found.left_out == {FAILED: 1, IDENTICAL: 1, TIE: 1, MARGIN: 0} and found.candidates == 4


def test_a_margin_that_is_too_small_is_left_out() -> None:
    found = select([[1.0, 0.5], [1.0, 0.25]], min_margin=0.75)
    assert triples(found) == [(1, 0, 1)] and found.left_out[MARGIN] == 1


def test_a_failed_response_does_not_stand_for_the_worst() -> None:
    assert triples(select([[NAN, 3, 2]])) == [(0, 1, 2)]


def test_random_pairs_depend_on_the_seed_and_reach_every_two() -> None:
    batch, scores = answers_of(1, 4), np.array([[1, 2, 3, 4]], np.float32)
    found = {triples(select_pairs(batch, scores, rule="random", seed=(5, step)))[0] for step in range(80)}
    assert found == {(0, i, j) for i in range(4) for j in range(i)}
    again = [triples(select_pairs(batch, scores, rule="random", seed=(5, 3))) for _ in range(2)]
    assert again[0] == again[1]


def test_values_of_the_pairs_are_looked_up() -> None:
    found = select([[1, 3, 2], [0, -5, 9]])
    assert found.of(np.arange(6, dtype=np.float32).reshape(2, 3)).tolist() == [[1, 0], [5, 4]]


def test_no_pair_at_all_is_an_empty_selection() -> None:
    found = select([[1, 1], [NAN, NAN]])
    assert len(found) == 0 and found.responses.shape == (0, 2) and found.prompts.dtype == torch.long


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rule": "best"}, "best_worst, random, all"), ({"scores": np.zeros((2, 3), np.float32)}, r"\[2, 2\]")],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str) -> None:
    given_scores = {"scores": np.zeros((2, 2), np.float32), "rule": "random", "seed": (0,), **options}
    with pytest.raises(ValueError, match=message):
        select_pairs(answers_of(2, 2), **given_scores)  # type: ignore[arg-type]
