"""Scores by functions: how they are called, added up, and how failures are handled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mindspeed_dpo.config.settings.reward_sources import RewardConfig
from mindspeed_dpo.workers.rewards.detokenization import TextReader
from mindspeed_dpo.workers.rewards.function_scorer import FunctionScorer, check_functions, open_functions
from mindspeed_dpo.workers.rewards.sandbox import IsolatedFunctions
from mindspeed_dpo.workers.scorer import Scored
from tests.unit.workers.rewards.sample_rollouts import FUNCTIONS, reader, rollouts

NAMES = (
    "length", "vowels", "as_array", "written", "only_labels", "silent_on_short", "raising", "leaving", "too_few",
    "no_list", "dying", "not_a_number", "infinite", "huge", "text", "nothing", "shouting",
)  # fmt: skip
# Lengths 1 and 3, 2 and 4, 0 and 5.
BATCH = rollouts([("one", ["a", "bcd"]), ("bad two", ["ef", "ghij"]), ("three", ["<|end|>", "klmno<|end|>"])])


@pytest.fixture(scope="module")
def functions() -> Iterator[IsolatedFunctions]:
    started = IsolatedFunctions([f"{FUNCTIONS}.{name}" for name in NAMES], timeout_s=60)
    yield started
    started.close()


def score(
    functions: IsolatedFunctions, *names: str, weights: Sequence[float] = (), texts: TextReader | None = None
) -> Scored:
    scorer = FunctionScorer(functions, [f"{FUNCTIONS}.{name}" for name in names], weights, texts or reader())
    return scorer.score(BATCH)


def test_a_function_gets_exactly_what_it_names_once_for_each_response(
    functions: IsolatedFunctions, tmp_path: Path
) -> None:
    notebook = str(tmp_path / "call.json")
    texts = reader({"labels": lambda row: [row, str(row)], "notebook": lambda row: notebook})
    assert score(functions, "written", texts=texts).scores.tolist() == [[0, 0]] * 3
    ids = [tokens.tolist() for row in BATCH.samples.responses() for tokens in row]
    assert json.loads(Path(notebook).read_text(encoding="utf-8")) == {
        "prompts": ["one", "one", "bad two", "bad two", "three", "three"],
        "completions": ["a", "bcd", "ef", "ghij", "", "klmno"],
        "completion_ids": ids,
        "messages": [[{"role": "user", "content": f"question {row}"}] for row in (0, 0, 1, 1, 2, 2)],
        "labels": [[row, str(row)] for row in (0, 0, 1, 1, 2, 2)],
    }


def test_a_function_may_name_few_arguments(functions: IsolatedFunctions) -> None:
    assert score(functions, "only_labels", texts=reader({"labels": int})).scores.tolist() == [[0, 0], [1, 1], [2, 2]]


def test_scores_of_several_functions_are_added_up_by_their_weights(functions: IsolatedFunctions) -> None:
    by_length = score(functions, "length").scores
    assert by_length.dtype == np.float32 and by_length.tolist() == [[1, 3], [2, 4], [0, 5]]
    by_vowels = score(functions, "vowels").scores
    assert by_vowels.tolist() == [[1, 0], [1, 1], [0, 1]]
    both = score(functions, "length", "vowels", weights=[2, -0.5])
    np.testing.assert_array_equal(both.scores, 2 * by_length - 0.5 * by_vowels)
    np.testing.assert_array_equal(score(functions, "length", "vowels").scores, by_length + by_vowels)
    np.testing.assert_array_equal(score(functions, "length", "length").scores, 2 * by_length)
    assert both.failures == {}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("raising", "raised ValueError: cannot read this"),
        ("leaving", "raised SystemExit: 3"),
        ("too_few", "returned 1 values where 2 were expected"),
        ("no_list", "returned the float 1.0 instead of a list"),
        ("dying", "ended its process (exit code 7)"),
        ("not_a_number", "scored response 1 with nan"),
        ("infinite", "scored response 1 with -inf"),
        ("text", "scored response 1 with the str '5'"),
    ],
)
def test_the_failing_prompt_is_named_and_the_others_keep_their_scores(
    functions: IsolatedFunctions, name: str, cause: str
) -> None:
    scored = score(functions, name)
    np.testing.assert_array_equal(scored.scores, [[1, 3], [np.nan, np.nan], [0, 5]])
    assert scored.failures == {1: f"{FUNCTIONS}.{name} {cause} for prompt 'bad two' (dataset row 1)"}


def test_a_prompt_that_hangs_is_named_after_its_time(functions: IsolatedFunctions) -> None:
    short = IsolatedFunctions([f"{FUNCTIONS}.hanging"], timeout_s=3)
    scored = score(short, "hanging")
    np.testing.assert_array_equal(scored.scores, [[1, 3], [np.nan, np.nan], [0, 5]])
    sentence = f"{FUNCTIONS}.hanging did not return within 3 s for prompt 'bad two' (dataset row 1)"
    assert scored.failures == {1: sentence}
    short.close()


def test_a_failure_of_one_function_is_one_of_the_sum(functions: IsolatedFunctions) -> None:
    scored = score(functions, "length", "raising", "length")
    np.testing.assert_array_equal(scored.scores, [[3, 9], [np.nan, np.nan], [0, 15]])
    assert list(scored.failures) == [1]


def test_a_score_too_large_for_float32_is_a_failure(functions: IsolatedFunctions) -> None:
    scored = score(functions, "huge")
    np.testing.assert_array_equal(scored.scores, [[1, 3], [np.nan, np.nan], [0, 5]])
    assert "too large for prompt 'bad two'" in scored.failures[1]


def test_a_function_without_an_opinion_is_left_out_of_the_sum(functions: IsolatedFunctions) -> None:
    scored = score(functions, "length", "silent_on_short", weights=[1, 10])
    assert scored.scores.tolist() == [[1, 13], [2, 14], [0, 15]]
    assert scored.failures == {}


def test_a_response_without_any_opinion_leaves_its_prompt_unscored(functions: IsolatedFunctions) -> None:
    scored = score(functions, "nothing")
    np.testing.assert_array_equal(scored.scores, [[1, 3], [np.nan, np.nan], [0, 5]])
    assert scored.failures == {
        1: "no reward function had an opinion on response 1 for prompt 'bad two' (dataset row 1)"
    }


def test_functions_may_print_as_they_like(functions: IsolatedFunctions, capfd: pytest.CaptureFixture[str]) -> None:
    assert score(functions, "shouting").scores.tolist() == [[1, 3], [2, 4], [0, 5]]


def settings(*names: str, **others: object) -> RewardConfig:
    return RewardConfig(reward_functions=tuple(f"{FUNCTIONS}.{name}" for name in names), **others)  # type: ignore[arg-type]


def test_functions_are_checked_without_being_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "def f(completions, labels):\n    open('called', 'w').close()\n    return [0]", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    check_functions(RewardConfig(reward_functions=("mine.f",), dataset_additional_keys=("labels",)))
    assert not (tmp_path / "called").exists()
    check_functions(RewardConfig())


@pytest.mark.parametrize(
    ("invalid", "sentence"),
    [
        (settings("length", "absent"), r"reward_functions: .*\.absent cannot be imported"),
        (settings("NOT_A_FUNCTION"), r"reward_functions: .*\.NOT_A_FUNCTION is a dict, not a function"),
        (
            settings("only_labels", dataset_additional_keys=("solutions",)),
            r"only_labels requires the argument labels, .* completion_ids, messages, solutions; .*additional_keys",
        ),
        (settings("length", dataset_additional_keys=("prompts",)), "dataset_additional_keys names prompts"),
        (RewardConfig(judge=f"{FUNCTIONS}.absent"), r"judge: .*\.absent cannot be imported"),
        (RewardConfig(judge=f"{FUNCTIONS}.written"), "judge: .*written requires the argument completion_ids"),
    ],
)
def test_functions_that_cannot_be_called_stop_the_run_before_it_starts(invalid: RewardConfig, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_functions(invalid)


def test_opened_functions_can_be_called() -> None:
    opened = open_functions(settings("length"))
    assert score(opened, "length").scores.tolist() == [[1, 3], [2, 4], [0, 5]]
    opened.close()
