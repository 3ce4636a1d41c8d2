"""Calls for many prompts at once that tell which of the prompts a failure belongs to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from mindspeed_dpo.workers.rewards.sandbox import Arguments, CallFailed, Value

logger = logging.getLogger(__name__)

# After this many prompts in a row that hung or killed the process, the function itself is at fault (a service that is
# down, a library that crashes): the rest of the batch is not asked, which bounds what a batch can cost.
SILENT_IN_A_ROW = 4


class Functions(Protocol):
    """Functions that can be called by path."""

    def call(self, path: str, arguments: Arguments) -> list[Value]:
        """See `IsolatedFunctions.call`."""


def ask(functions: Functions, path: str, prompts: Sequence[Arguments]) -> list[list[Value] | str]:
    """Values for each prompt, or what went wrong with it as the end of a sentence "the function …".

    All prompts are asked in one call. Where that fails as a whole, each is asked alone.

    Args:
        functions: Where the function is called.
        path: The function.
        prompts: For each prompt the arguments, as lists of equal length: one value is expected for each element.
    """
    if not prompts:
        return []
    try:
        return list(_split(_called(functions, path, _joined(prompts)), prompts))
    except CallFailed as failure:
        if len(prompts) == 1:
            return [failure.cause]
        logger.warning("%s %s for %d prompts at once; each is asked alone", path, failure.cause, len(prompts))
        return _one_by_one(functions, path, prompts)


def _one_by_one(functions: Functions, path: str, prompts: Sequence[Arguments]) -> list[list[Value] | str]:
    answers: list[list[Value] | str] = []
    silent = 0
    for prompt in prompts:
        if silent == SILENT_IN_A_ROW:
            answers.append(f"was not asked after it was lost {SILENT_IN_A_ROW} times in a row")
            continue
        try:
            answers.append(_called(functions, path, prompt))
            silent = 0
        except CallFailed as failure:
            answers.append(failure.cause)
            silent = silent + 1 if failure.silent else 0
    return answers


def _called(functions: Functions, path: str, arguments: Arguments) -> list[Value]:
    values = functions.call(path, arguments)
    if len(values) != _size(arguments):
        raise CallFailed(f"returned {len(values)} values where {_size(arguments)} were expected")
    return values


def _joined(prompts: Sequence[Arguments]) -> Arguments:
    return {name: [value for prompt in prompts for value in prompt[name]] for name in prompts[0]}


def _split(values: list[Value], prompts: Sequence[Arguments]) -> list[list[Value]]:
    parts = []
    for prompt in prompts:
        parts.append(values[: _size(prompt)])
        values = values[_size(prompt) :]
    return parts


def _size(arguments: Arguments) -> int:
    return len(arguments["completions"])
