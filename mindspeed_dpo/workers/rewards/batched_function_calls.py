"""Calls functions for many prompts at once, and attributes failures to single prompts."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from mindspeed_dpo.workers.rewards.sandbox import Arguments, IsolatedFunctions
from mindspeed_dpo.workers.rewards.sandbox_replies import CallFailed, Value

logger = logging.getLogger(__name__)

# After this many consecutive prompts that hung or killed the process, the function itself is at fault (a service that
# is down, a library that crashes). The rest of the batch is skipped, which bounds the time that a batch can take.
MAX_CONSECUTIVE_LOSSES = 4


def call_for_prompts(functions: IsolatedFunctions, path: str, prompts: Sequence[Arguments]) -> list[list[Value] | str]:
    """Call a function for several prompts: all in one call, or one by one if that call fails.

    Args:
        functions: IsolatedFunctions by path.
        path: Path of the function.
        prompts: Arguments for each prompt, as lists of equal length; one value is expected for each element.

    Returns:
        For each prompt its values, or the cause of its failure, which completes the sentence "the function …".
    """
    if not prompts:
        return []
    try:
        return list(_split(_called(functions, path, _concatenated(prompts)), prompts))
    except CallFailed as failure:
        if len(prompts) == 1:
            return [failure.cause]
        logger.warning(
            "%s %s for %d prompts at once; calling it for each prompt separately", path, failure.cause, len(prompts)
        )
        return _one_by_one(functions, path, prompts)


def _one_by_one(functions: IsolatedFunctions, path: str, prompts: Sequence[Arguments]) -> list[list[Value] | str]:
    results: list[list[Value] | str] = []
    num_lost = 0
    for prompt in prompts:
        if num_lost == MAX_CONSECUTIVE_LOSSES:
            results.append(f"was skipped after it was lost {MAX_CONSECUTIVE_LOSSES} times in a row")
            continue
        try:
            results.append(_called(functions, path, prompt))
            num_lost = 0
        except CallFailed as failure:
            results.append(failure.cause)
            num_lost = num_lost + 1 if failure.is_lost else 0
    return results


def _called(functions: IsolatedFunctions, path: str, arguments: Arguments) -> list[Value]:
    values = functions.call(path, arguments)
    if len(values) != _size(arguments):
        raise CallFailed(f"returned {len(values)} values where {_size(arguments)} were expected")
    return values


def _concatenated(prompts: Sequence[Arguments]) -> Arguments:
    return {name: [value for prompt in prompts for value in prompt[name]] for name in prompts[0]}


def _split(values: list[Value], prompts: Sequence[Arguments]) -> list[list[Value]]:
    parts = []
    for prompt in prompts:
        parts.append(values[: _size(prompt)])
        values = values[_size(prompt) :]
    return parts


def _size(arguments: Arguments) -> int:
    return len(arguments["completions"])
