"""Many prompts in one call, and each alone where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindspeed_dpo.workers.rewards.batched_function_calls import MAX_CONSECUTIVE_LOSSES, call_for_prompts
from mindspeed_dpo.workers.rewards.sandbox_replies import CallFailed, Value


class Noting:
    """Functions that note the completions of every call."""

    def __init__(self, function: Callable[[list[Any]], list[Value]]) -> None:
        self.calls: list[list[Any]] = []
        self._function = function

    def call(self, path: str, arguments: Any) -> list[Value]:
        self.calls.append(list(arguments["completions"]))
        return self._function(self.calls[-1])


def prompts(*completions: list[int]) -> list[dict[str, list[int]]]:
    return [{"completions": part, "prompts": [0] * len(part)} for part in completions]


def double(values: list[int]) -> list[Value]:
    return [2.0 * value for value in values]


def test_all_prompts_are_passed_at_once() -> None:
    functions = Noting(double)
    assert call_for_prompts(functions, "f", prompts([1, 2], [3], [4, 5])) == [[2, 4], [6], [8, 10]]
    assert functions.calls == [[1, 2, 3, 4, 5]]


def test_nothing_is_called_for_no_prompts() -> None:
    functions = Noting(double)
    assert call_for_prompts(functions, "f", []) == [] and functions.calls == []


def test_after_a_failure_each_prompt_is_passed_alone_and_the_failing_one_named() -> None:
    def fails_at_three(values: list[int]) -> list[Value]:
        if 3 in values:
            raise CallFailed("raised at 3")
        return double(values)

    functions = Noting(fails_at_three)
    assert call_for_prompts(functions, "f", prompts([1, 2], [3], [4, 5])) == [[2, 4], "raised at 3", [8, 10]]
    assert functions.calls == [[1, 2, 3, 4, 5], [1, 2], [3], [4, 5]]


def test_another_count_is_a_failure() -> None:
    functions = Noting(lambda values: double(values)[(3 in values) :])
    assert call_for_prompts(functions, "f", prompts([1], [3, 3])) == [[2], "returned 1 values where 2 were expected"]


def test_one_prompt_is_not_passed_twice() -> None:
    functions = Noting(lambda values: [])
    assert call_for_prompts(functions, "f", prompts([1])) == ["returned 0 values where 1 were expected"]
    assert len(functions.calls) == 1


def test_a_function_that_is_lost_again_and_again_is_not_called_for_ever() -> None:
    def hangs(values: list[int]) -> list[Value]:
        raise CallFailed("did not return", is_lost=True)

    functions = Noting(hangs)
    replies = call_for_prompts(functions, "f", prompts(*([k] for k in range(50))))
    assert len(functions.calls) == 1 + MAX_CONSECUTIVE_LOSSES
    assert replies[:MAX_CONSECUTIVE_LOSSES] == ["did not return"] * MAX_CONSECUTIVE_LOSSES
    assert set(replies[MAX_CONSECUTIVE_LOSSES:]) == {
        f"was skipped after it was lost {MAX_CONSECUTIVE_LOSSES} times in a row"
    }


def test_prompts_that_hang_here_and_there_do_not_end_the_asking() -> None:
    def hangs_at_even(values: list[int]) -> list[Value]:
        if any(value % 2 == 0 for value in values):
            raise CallFailed("did not return", is_lost=True)
        return double(values)

    replies = call_for_prompts(Noting(hangs_at_even), "f", prompts(*([k] for k in range(20))))
    assert replies[1::2] == [[2 * k] for k in range(1, 20, 2)]
    assert set(map(str, replies[::2])) == {"did not return"}


def test_errors_that_are_reported_do_not_end_the_calls() -> None:
    def raises(values: list[int]) -> list[Value]:
        raise CallFailed("raised")

    assert call_for_prompts(Noting(raises), "f", prompts(*([k] for k in range(9)))) == ["raised"] * 9
