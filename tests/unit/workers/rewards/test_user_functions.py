"""Importing a function, its parameters, and its results: the child's side, without a child."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from mindspeed_dpo.workers.rewards.function_loading import InvalidFunction, import_function, parameters_of
from mindspeed_dpo.workers.rewards.function_results import run_function
from tests.support import reward_functions
from tests.unit.workers.rewards.sample_rollouts import FUNCTIONS


def test_functions_and_methods_of_objects_are_imported() -> None:
    assert import_function(f"{FUNCTIONS}.length") is reward_functions.length
    assert import_function(f"{FUNCTIONS}.JUDGE.judge") == reward_functions.JUDGE.judge


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("length", "is not a dotted path such as package.module.function"),
        ("nowhere.module.length", "there is no module nowhere in /"),
        (f"{FUNCTIONS}.size", f"{FUNCTIONS} has no size"),
        ("tests.support.absent.length", "tests.support has no absent"),
        (f"{FUNCTIONS}.NOT_A_FUNCTION", "is a dict, not a function"),
    ],
)
def test_paths_that_lead_nowhere_are_reported(path: str, sentence: str) -> None:
    with pytest.raises(InvalidFunction, match=sentence):
        import_function(path)


def test_arguments_are_read_from_the_signature() -> None:
    assert parameters_of(reward_functions.vowels) == {"names": ["completions"], "required": ["completions"]}
    assert parameters_of(reward_functions.length) == {"names": None, "required": ["completions"]}
    assert parameters_of(reward_functions.JUDGE.judge) == {
        "names": ["prompts", "completions", "shuffle_order"],
        "required": ["prompts", "completions"],
    }
    with pytest.raises(InvalidFunction, match="takes first by position only"):
        parameters_of(lambda first, /: first)


@pytest.mark.parametrize(
    ("returned", "values"),
    [
        ([1, 2.5, True, None], [1.0, 2.5, 1.0, None]),
        ((np.float32(0.5), np.int64(3), torch.tensor(2.0)), [0.5, 3.0, 2.0]),
        (np.array([1, 2]), [1.0, 2.0]),
        (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        ((value for value in (1, 2)), [1.0, 2.0]),
        ([float("nan"), float("inf"), "1", [1]], ["nan", "inf", "the str '1'", "the list [1]"]),
    ],
)
def test_values_become_numbers_or_words(returned: Any, values: list[Any]) -> None:
    assert run_function(lambda: returned, {}) == {"values": values}


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (1.0, "returned the float 1.0 instead of a list"),
        ("12", "returned the str '12' instead of a list"),
        (None, "returned the NoneType None instead of a list"),
        ({"scores": [1]}, "returned the dict {'scores': [1]} instead of a list"),
    ],
)
def test_a_result_that_is_no_list_is_reported(returned: Any, sentence: str) -> None:
    assert run_function(lambda: returned, {}) == {"failed": sentence}


def test_an_error_is_reported_in_one_line_with_its_traceback_beside_it() -> None:
    outcome = run_function(partial(reward_functions.raising, prompts=["bad"]), {"completions": ["a"]})
    assert outcome["failed"] == "raised ValueError: cannot read this"
    assert "reward_functions.py" in outcome["trace"]


def test_functions_may_be_asynchronous() -> None:
    assert run_function(reward_functions.awaited, {"completions": ["ab"]}) == {"values": [2.0]}


def test_completions_to_compare_are_tuples() -> None:
    assert run_function(reward_functions.longer, {"prompts": ["x"], "completions": [["a", "bc"]]}) == {"values": [1.0]}
