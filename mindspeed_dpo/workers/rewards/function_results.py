"""Calls a user's function and converts what it returns to numbers. Runs in the child process of `sandbox`."""

from __future__ import annotations

import asyncio
import inspect
import math
import reprlib
import traceback
from collections.abc import Iterable
from numbers import Real
from typing import Any

from mindspeed_dpo.workers.rewards.function_loading import Function

# Errors of a function that do not end its process.
FUNCTION_ERRORS = (Exception, SystemExit)
# What is reported of an error: of its message, and of each end of its traceback, in characters.
MESSAGE_LENGTH = 200
TRACE_LENGTH = 4000


def run_function(function: Function, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call a function; return its `values` (numbers, None, or descriptions of anything else), or why it `failed`."""
    # JSON has no tuples; the two completions that a judge compares are passed as one.
    arguments = {
        name: [tuple(value) for value in values] if name == "completions" and _are_pairs(values) else values
        for name, values in arguments.items()
    }
    try:
        returned = function(**arguments)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        if isinstance(returned, (str, bytes, dict)) or not isinstance(returned, Iterable):
            return {"failed": f"returned {_described(returned)} instead of a list"}
        return {"values": [_value(value) for value in returned]}
    except FUNCTION_ERRORS as error:
        return {"failed": f"raised {one_line(error)}", "trace": _shortened(traceback.format_exc())}


def _are_pairs(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], list)


def _value(value: Any) -> float | str | None:
    # Convert scalars of numpy and torch to Python numbers.
    plain = value.item() if hasattr(value, "item") else value
    if plain is None:
        return None
    if not isinstance(plain, Real):
        return _described(plain)
    number = float(plain)
    return number if math.isfinite(number) else str(number)


def _described(value: Any) -> str:
    return f"the {type(value).__name__} {reprlib.repr(value)}"


def one_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__[:MESSAGE_LENGTH]}: {lines[0][:MESSAGE_LENGTH]}".removesuffix(": ")


def _shortened(text: str) -> str:
    """Both ends of a text that is too long for a log."""
    omitted = len(text) - 2 * TRACE_LENGTH
    if omitted <= 0:
        return text
    return f"{text[:TRACE_LENGTH]}\n… {omitted} characters omitted …\n{text[-TRACE_LENGTH:]}"
