"""Verdicts in texts of a judge model."""

from __future__ import annotations

from typing import Any

import pytest

from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.workers.rewards.judge_verdicts import UnparsedVerdictError, VerdictParser

PAIRWISE = {"judge_mode": "pairwise"}


def points(text: str, **keys: Any) -> tuple[float, ...]:
    return VerdictParser(RewardConfig(judge_model="judge", **keys)).points(text)


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        ("Good. [[7]]", {}, (7,)),
        ("At first [[2]], on reflection [[ 8.5 ]].", {}, (8.5,)),
        ("[[-1]]", {"judge_score_range": (-2.0, 2.0)}, (-1,)),
        ("[[10]]", {}, (10,)),
        ("Score: 7/10\n", {"judge_verdict": r"Score:\s*(\d+)"}, (7,)),
        ("yes no", {"judge_verdict": r"(?:yes|no)|never (\d)"}, None),
        ("[[A]]", PAIRWISE, (1, 0)),
        ("[[A]] is tempting, but [[B]]", PAIRWISE, (0, 1)),
        ("[[C]]", PAIRWISE, (0.5, 0.5)),
        ("Verdict: tie", {**PAIRWISE, "judge_verdict": r"Verdict: (\w+)"}, (0.5, 0.5)),
        ("Verdict: b", {**PAIRWISE, "judge_verdict": r"Verdict: (\w+)"}, (0, 1)),
        ("", {}, None),
    ],
)
def test_the_last_verdict_of_a_text_counts(text: str, keys: Any, expected: tuple[float, ...] | None) -> None:
    if expected is None:
        with pytest.raises(UnparsedVerdictError, match=r"^judge_verdict=.* finds nothing in its text"):
            points(text, **keys)
    else:
        assert points(text, **keys) == expected


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("[[11]]", {}, r"11 is not within judge_score_range=\[1, 10\], in its text '\[\[11\]\]'"),
        ("[[0.5]]", {}, r"0.5 is not within"),
        ("[[nan]]", {"judge_verdict": r"\[\[(.*)\]\]"}, "nan is not within"),
        ("[[good]]", {"judge_verdict": r"\[\[(.*)\]\]"}, r"'good' is not a number, in its text"),
        ("[[D]]", {**PAIRWISE, "judge_verdict": r"\[\[(.*)\]\]"}, "'D' is not A, B or C, in its text"),
        ("[[7]]", PAIRWISE, "finds nothing"),
        ("a" * 150 + "b" * 150, {}, f"finds nothing in its text '{'a' * 99} … 102 characters omitted … {'b' * 99}'$"),
    ],
)
def test_what_is_no_verdict_says_why_and_quotes_the_text(text: str, keys: Any, message: str) -> None:
    with pytest.raises(UnparsedVerdictError, match=message):
        points(text, **keys)
