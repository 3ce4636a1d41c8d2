"""Pairs among sampled responses: of one prompt, the better one first; ties, failures and duplicates are left out."""

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


def responses_of(prompts: int, count: int, duplicates: Sequence[tuple[int, int, int]] = ()) -> PreferenceBatch:
    """Responses that all differ, but for `duplicates`: (prompt, k, another k that gets the same tokens)."""
    tokens = [[[100 * p + k, k + 1] for k in range(count)] for p in range(prompts)]
    for p, k, other in duplicates:
        tokens[p][other] = tokens[p][k]
    return PreferenceBatch.from_lists([[p + 1] for p in range(prompts)], tokens)


def select(scores: list[list[float]], rule: str = "best_worst", **options: object) -> Selection:
    duplicates = options.pop("duplicates", ())
    batch = responses_of(len(scores), len(scores[0]), duplicates)  # type: ignore[arg-type]
    values = np.array(scores, np.float32)
    return select_pairs(batch, values, rule=rule, seed=(1, 2), **options)  # type: ignore[arg-type]


def triples(selection: Selection) -> list[tuple[int, int, int]]:
    return [(p, *pair) for p, pair in zip(selection.prompts.tolist(), selection.responses.tolist(), strict=True)]


SCORES = arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(2, 5)), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, NAN])
)


@given(scores=SCORES, rule=st.sampled_from(sorted(RULES)), margin=st.sampled_from([0.0, 0.75]))
def test_every_pair_is_of_one_prompt_with_the_better_score_first(scores: np.ndarray, rule: str, margin: float) -> None:
    actual = select_pairs(responses_of(*scores.shape), scores, rule=rule, min_margin=margin, seed=(0, 7))
    for prompt, better, worse in triples(actual):
        assert scores[prompt, better] > scores[prompt, worse]
        assert scores[prompt, better] - scores[prompt, worse] >= margin
    assert len(actual) + sum(actual.left_out.values()) == actual.candidates
    assert triples(actual) == sorted(triples(actual), key=lambda triple: triple[0])


@given(scores=SCORES, data=st.data())
def test_permuting_prompts_permutes_the_pairs(scores: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    batch = responses_of(*scores.shape)
    complete = {p: pair for p, *pair in triples(select_pairs(batch, scores, rule="best_worst", seed=(0,)))}
    moved = select_pairs(batch.select(order), scores[list(order)], rule="best_worst", seed=(0,))
    assert {order[p]: pair for p, *pair in triples(moved)} == complete


@given(scores=SCORES)
def test_all_takes_every_two_with_different_scores(scores: np.ndarray) -> None:
    expected = {
        (p, i, j) if row[i] > row[j] else (p, j, i)
        for p, row in enumerate(scores)
        for i, j in itertools.combinations(range(len(row)), 2)
        if np.isfinite(row[i] - row[j]) and row[i] != row[j]
    }
    actual = select_pairs(responses_of(*scores.shape), scores, rule="all", seed=(0,))
    assert set(triples(actual)) == expected and len(actual) == len(expected)


def test_best_meets_worst() -> None:
    assert triples(select([[1, 3, 2], [0, -5, 9]])) == [(0, 1, 0), (1, 2, 1)]


def test_ties_failures_and_duplicates_are_left_out_and_counted() -> None:
    actual = select([[1, 1], [1, NAN], [2, 1], [2, 1]], duplicates=[(2, 0, 1)])
    assert triples(actual) == [(3, 0, 1)]
    assert actual.left_out == {FAILED: 1, IDENTICAL: 1, TIE: 1, MARGIN: 0} and actual.candidates == 4


def test_a_margin_that_is_too_small_is_left_out() -> None:
    actual = select([[1.0, 0.5], [1.0, 0.25]], min_margin=0.75)
    assert triples(actual) == [(1, 0, 1)] and actual.left_out[MARGIN] == 1


def test_a_failed_response_does_not_stand_for_the_worst() -> None:
    assert triples(select([[NAN, 3, 2]])) == [(0, 1, 2)]


def test_random_pairs_depend_on_the_seed_and_reach_every_two() -> None:
    batch, scores = responses_of(1, 4), np.array([[1, 2, 3, 4]], np.float32)
    actual = {triples(select_pairs(batch, scores, rule="random", seed=(5, step)))[0] for step in range(80)}
    assert actual == {(0, i, j) for i in range(4) for j in range(i)}
    again = [triples(select_pairs(batch, scores, rule="random", seed=(5, 3))) for _ in range(2)]
    assert again[0] == again[1]


def test_values_of_the_pairs_are_looked_up() -> None:
    actual = select([[1, 3, 2], [0, -5, 9]])
    assert actual.of(np.arange(6, dtype=np.float32).reshape(2, 3)).tolist() == [[1, 0], [5, 4]]


def test_no_pair_at_all_is_an_empty_selection() -> None:
    actual = select([[1, 1], [NAN, NAN]])
    assert len(actual) == 0 and actual.responses.shape == (0, 2) and actual.prompts.dtype == torch.long


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rule": "best"}, "best_worst, random, all"), ({"scores": np.zeros((2, 3), np.float32)}, r"\[2, 2\]")],
)
def test_invalid_arguments_are_named(options: dict[str, object], message: str) -> None:
    given_scores = {"scores": np.zeros((2, 2), np.float32), "rule": "random", "seed": (0,), **options}
    with pytest.raises(ValueError, match=message):
        select_pairs(responses_of(2, 2), **given_scores)  # type: ignore[arg-type]
