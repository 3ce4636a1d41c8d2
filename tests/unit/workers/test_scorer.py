"""Scores that travel: joined in order, a prompt scored completely or not at all."""

from __future__ import annotations

import numpy as np

from mindspeed_dpo.workers.scorer import Scored


def scored(*rows: tuple[float, float], **failures: str) -> Scored:
    return Scored(
        np.array(rows, np.float32).reshape(-1, 2), {int(key.removeprefix("p")): text for key, text in failures.items()}
    )


def test_parts_are_joined_with_their_failures_in_their_places() -> None:
    joined = Scored.concat([scored((1, 2)), scored(), scored((np.nan, np.nan), (3, 4), p0="a"), scored((5, 6), p0="b")])
    assert joined.scores.dtype == np.float32
    np.testing.assert_array_equal(joined.scores[:, 0], [1, np.nan, 3, 5])
    assert joined.failures == {1: "a", 3: "b"}


def test_a_prompt_with_one_score_that_is_no_number_has_none_and_is_reported() -> None:
    validated = scored((1, 2), (np.inf, 1), (3, 4), p2="reported before").validated([7, 8, 9])
    np.testing.assert_array_equal(validated.scores, [[1, 2], [np.nan, np.nan], [np.nan, np.nan]])
    assert validated.failures == {1: "the responses to dataset row 8 were scored inf, 1.0", 2: "reported before"}


def test_settling_and_penalties_leave_the_original_alone() -> None:
    original = scored((1, 2), (np.nan, 1))
    assert original.validated([0, 1]).minus(np.ones((2, 2), np.float32)).scores[0].tolist() == [0, 1]
    np.testing.assert_array_equal(original.scores, [[1, 2], [np.nan, 1]])
