"""Scores by a judge model that needs no process: which questions it gets, and what verdicts become."""

from __future__ import annotations

import numpy as np
import pytest

from mindspeed_dpo.workers.scorer import Scored, Verdicts
from tests.unit.workers.rewards.judges import FakeJudge, scorer, settings_of
from tests.unit.workers.rewards.sample_rollouts import rollouts

BATCH = rollouts([("p", ["a", "bbb", "cc"]), ("p", ["dddd", "", "e"])], rows=[4, 7])


def response_of(question: str) -> str:
    return question.split("|")[1]


def by_length(question: str) -> str:
    return f"I count. [[{len(response_of(question)) + 1}]]"


def longer(question: str) -> str:
    first, second = question.split("|")[1:3]
    return "[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]"


def test_each_response_has_the_score_of_its_own_text_and_all_are_one_request() -> None:
    judge = FakeJudge(by_length)
    scored = scorer(judge, settings_of()).score(BATCH)
    assert scored.scores.tolist() == [[2, 4, 3], [5, 1, 2]] and scored.scores.dtype == np.float32
    assert not scored.failures and scored.verdicts.metrics == {"judge/unparsed": 0, "judge/cut": 0}
    (questions,) = judge.requests
    assert [response_of(question) for question in questions] == ["a", "bbb", "cc", "dddd", "", "e"]
    assert "question 4|" in questions[0] and "question 7|" in questions[3]


def test_every_two_responses_are_compared_in_both_orders() -> None:
    judge = FakeJudge(longer)
    scored = scorer(judge, settings_of("pairwise")).score(BATCH)
    assert scored.scores.tolist() == [[0, 1, 0.5], [1, 0, 0.5]]
    (questions,) = judge.requests
    assert len(questions) == 2 * 6
    shown = [tuple(question.split("|")[1:3]) for question in questions[:6]]
    assert sorted(shown) == sorted([("a", "bbb"), ("bbb", "a"), ("a", "cc"), ("cc", "a"), ("bbb", "cc"), ("cc", "bbb")])


def test_a_preference_for_a_position_gives_no_response_an_advantage() -> None:
    scored = scorer(FakeJudge(lambda _: "[[A]]"), settings_of("pairwise")).score(BATCH)
    assert scored.scores.tolist() == [[0.5] * 3] * 2


def silent_on_three(question: str) -> str:
    return "I do not know…" if response_of(question) == "bbb" else by_length(question)


def test_a_text_without_a_verdict_leaves_its_prompt_without_scores() -> None:
    scored = scorer(FakeJudge(silent_on_three), settings_of()).score(BATCH)
    assert np.isnan(scored.scores[0]).all() and scored.scores[1].tolist() == [5, 1, 2]
    assert scored.failures.keys() == {0}
    message = scored.failures[0]
    assert message.startswith("judge_model gave no verdict on response 1 to prompt 'p' (dataset row 4): judge_verdict=")
    assert message.endswith("finds nothing in its text 'I do not know…'")
    verdicts = scored.verdicts
    assert (verdicts.count, verdicts.unparsed, verdicts.cut) == (6, 1, 1) and "I do not know" in verdicts.example
    assert verdicts.metrics == pytest.approx({"judge/unparsed": 1 / 6, "judge/cut": 1 / 6})


def test_a_text_without_a_verdict_has_the_configured_score() -> None:
    scored = scorer(FakeJudge(silent_on_three), settings_of(judge_unparsed_score=1.5)).score(BATCH)
    assert scored.scores.tolist() == [[2, 1.5, 3], [5, 1, 2]] and not scored.failures
    assert scored.verdicts.unparsed == 1


def test_a_comparison_without_a_verdict_gives_both_the_configured_score() -> None:
    def unsure(question: str) -> str:
        return "?" if question.split("|")[1:3] == ["bbb", "a"] else longer(question)

    scored = scorer(FakeJudge(unsure), settings_of("pairwise", judge_unparsed_score=0.5)).score(BATCH)
    # Of four verdicts on each, one is a tie instead of a win and a loss.
    assert scored.scores.tolist() == [[0.125, 0.875, 0.5], [1, 0, 0.5]]
    (message,) = scorer(FakeJudge(unsure), settings_of("pairwise")).score(BATCH).failures.values()
    assert "no verdict on responses 1 and 0 to prompt" in message


def test_a_prompt_that_cannot_be_asked_about_is_a_failure_and_the_others_are_scored() -> None:
    batch = rollouts([("p", ["a", "b" * 200]), ("p", ["cc", "d"])])
    judge = FakeJudge(by_length)
    scored = scorer(judge, settings_of(), max_length=100).score(batch)
    assert np.isnan(scored.scores[0]).all() and scored.scores[1].tolist() == [3, 2]
    assert scored.failures[0].startswith("judge_model cannot be asked (its question has 2")
    assert len(judge.requests[0]) == 2
    only = scorer(judge, settings_of(), max_length=5).score(batch)
    assert len(judge.requests) == 1 and only.failures.keys() == {0, 1} and only.verdicts.metrics == {}


def test_a_text_has_a_seed_of_its_own_however_prompts_are_divided() -> None:
    whole, part = FakeJudge(by_length), FakeJudge(by_length)
    scorer(whole, settings_of()).score(BATCH)
    scorer(part, settings_of()).score(BATCH.select([1]))
    assert part.seeds[0] == whole.seeds[0][3:] and len(set(whole.seeds[0])) == 6
    later = FakeJudge(by_length)
    scorer(later, settings_of()).score(rollouts([("p", ["a", "bbb", "cc"])], rows=[4], version=1))
    assert not set(later.seeds[0]) & set(whole.seeds[0])


def test_what_is_known_of_the_texts_survives_penalties_and_is_summed_over_replicas() -> None:
    judge = FakeJudge(silent_on_three)
    one = scorer(judge, settings_of()).score(BATCH)
    other = scorer(judge, settings_of()).score(BATCH.select([1]))
    joined = Scored.concat([other, one.validated([4, 7]).minus(np.ones((2, 3), np.float32))])
    assert joined.verdicts == Verdicts(9, unparsed=1, cut=1, example=one.verdicts.example)
    assert list(joined.failures) == [1] and joined.scores[2].tolist() == [4, 0, 1]
