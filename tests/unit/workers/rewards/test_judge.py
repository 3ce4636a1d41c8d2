"""Scores by comparisons: who wins how often, who is shown first, and what a failed comparison costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.rewards.judge import JudgeScorer
from mindspeed_dpo.workers.rewards.sandbox import Arguments, IsolatedFunctions
from mindspeed_dpo.workers.rewards.sandbox_replies import Value
from mindspeed_dpo.workers.scorer import Scored
from tests.unit.workers.rewards.sample_rollouts import FUNCTIONS, reader, rollouts

NAMES = ("longer", "first", "undecided_on_bad", "verbose", "JUDGE.judge")
TWO = rollouts([("one", ["a", "bcd"]), ("bad two", ["ghij", "ef"])])
THREE = rollouts([("one", ["a", "bcd", "ef"]), ("bad two", ["ghij", "k", ""])])


@pytest.fixture(scope="module")
def functions() -> Iterator[IsolatedFunctions]:
    started = IsolatedFunctions([f"{FUNCTIONS}.{name}" for name in NAMES], timeout_s=60)
    yield started
    started.close()


def score(functions: object, name: str, batch: RolloutBatch, seed: int = 1) -> Scored:
    return JudgeScorer(functions, f"{FUNCTIONS}.{name}", reader({"labels": int}), seed=seed).score(batch)  # type: ignore[arg-type]


class Shown:
    """A judge in this process who notes what is shown and prefers the longer."""

    def __init__(self) -> None:
        self.arguments: list[Arguments] = []

    def call(self, path: str, arguments: Arguments) -> list[Value]:
        self.arguments.append(arguments)
        return [float(len(b) > len(a)) for a, b in arguments["completions"]]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return [tuple(pair) for arguments in self.arguments for pair in arguments["completions"]]


@pytest.mark.parametrize("name", ["longer", "JUDGE.judge"])
@pytest.mark.parametrize("seed", range(3))
def test_the_score_is_the_share_of_comparisons_won(functions: IsolatedFunctions, name: str, seed: int) -> None:
    assert score(functions, name, TWO, seed).scores.tolist() == [[0, 1], [1, 0]]
    three = score(functions, name, THREE, seed)
    assert three.scores.dtype == np.float32
    assert three.scores.tolist() == [[0, 1, 0.5], [1, 0.5, 0]]
    assert three.failures == {}


def test_every_two_responses_of_a_prompt_are_shown_once_with_its_columns() -> None:
    shown = Shown()
    score(shown, "any", THREE)
    (call,) = shown.arguments
    assert {frozenset(pair) for pair in shown.pairs} == {
        frozenset(pair) for pair in [("a", "bcd"), ("a", "ef"), ("bcd", "ef"), ("ghij", "k"), ("ghij", ""), ("k", "")]
    }
    assert len(shown.pairs) == 6
    assert call["prompts"] == ["one"] * 3 + ["bad two"] * 3
    assert call["labels"] == [0, 0, 0, 1, 1, 1]
    assert [messages[0]["content"] for messages in call["messages"]] == ["question 0"] * 3 + ["question 1"] * 3
    assert set(call) == {"prompts", "completions", "messages", "labels"}


def test_a_coin_decides_who_is_shown_first_the_same_for_the_same_sample() -> None:
    many = rollouts([("p", ["a", "bc"])] * 400, rows=range(400))
    orders = []
    for batch, seed in ((many, 1), (many, 1), (many, 2), (rollouts([("p", ["a", "bc"])] * 400, version=1), 1)):
        shown = Shown()
        score(shown, "any", batch, seed)
        orders.append(shown.pairs)
    first, again, other_seed, other_version = orders
    assert first == again
    assert 150 < first.count(("a", "bc")) < 250
    assert first != other_seed and first != other_version


def test_the_coin_does_not_depend_on_the_prompts_beside_it() -> None:
    many = rollouts([("p", ["a", "bc", "def"])] * 20, rows=range(20))
    complete, parts = Shown(), Shown()
    score(complete, "any", many)
    for part in (range(7), range(7, 20)):
        score(parts, "any", many.select(part))
    assert complete.pairs == parts.pairs


def test_a_judge_who_only_looks_at_the_place_favours_no_response(functions: IsolatedFunctions) -> None:
    many = rollouts([("p", ["a", "bc"])] * 400, rows=range(400))
    assert score(functions, "first", many).scores.mean(0) == pytest.approx([0.5, 0.5], abs=0.125)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("undecided_on_bad", "had no opinion on responses"),
        ("verbose", "returned the str '0' instead of 0 or 1 on responses"),
    ],
)
def test_one_failed_comparison_leaves_its_prompt_unscored(functions: IsolatedFunctions, name: str, cause: str) -> None:
    scored = score(functions, name, THREE)
    assert np.isnan(scored.scores[1]).all() and scored.scores[0].sum() == pytest.approx(1.5)
    assert list(scored.failures) == [1]
    assert f"{FUNCTIONS}.{name} {cause}" in scored.failures[1]
    assert scored.failures[1].endswith("for prompt 'bad two' (dataset row 1)")


def test_none_is_no_opinion(functions: IsolatedFunctions) -> None:
    equal = rollouts([("one", ["ab", "cd"]), ("two", ["a", "bc"])])
    scored = score(functions, "longer", equal)
    np.testing.assert_array_equal(scored.scores, [[np.nan, np.nan], [0, 1]])
    assert "had no opinion on responses" in scored.failures[0]
