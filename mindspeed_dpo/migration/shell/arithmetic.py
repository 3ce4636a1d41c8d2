"""Integer arithmetic of a shell, `$((TP * CP))`, without executing anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MAX_TOKENS = 200
_TOKEN = re.compile(r"\s*(?:(\d{1,18})|\$?\{?([A-Za-z_]\w*)\}?|([-+*/%()]))")
_OPERATORS: tuple[Mapping[str, Callable[[int, int], int]], ...] = (
    {"+": lambda left, right: left + right, "-": lambda left, right: left - right},
    {
        "*": lambda left, right: left * right,
        # A shell rounds towards zero.
        "/": lambda left, right: abs(left) // abs(right) * (1 if left * right >= 0 else -1),
        "%": lambda left, right: left - abs(left) // abs(right) * (1 if left * right >= 0 else -1) * right,
    },
)


def compute(expression: str, variables: Mapping[str, str]) -> int | None:
    """Return the value of an expression of integers, variables, + - * / % and parentheses; None where it has none."""
    tokens = _tokens(expression, variables)
    if not tokens or len(tokens) > MAX_TOKENS:
        return None
    try:
        value, rest = _chain(tokens, 0)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return None if rest or abs(value) >= 1 << 63 else value


def _tokens(expression: str, variables: Mapping[str, str]) -> list[str]:
    """The tokens of an expression, variables replaced by their values; none if there is another character."""
    tokens, position = [], 0
    while position < len(expression.rstrip()):
        match = _TOKEN.match(expression, position)
        if match is None:
            return []
        number, name, sign = match.groups()
        tokens.append(number or sign or variables.get(name, "").strip() or "?")
        position = match.end()
    return tokens


def _chain(tokens: list[str], level: int) -> tuple[int, list[str]]:
    """Compute operands of one level of precedence from the left; returns the value and the remaining tokens."""
    operators = _OPERATORS[level] if level < len(_OPERATORS) else {}
    if not operators:
        return _operand(tokens)
    value, rest = _chain(tokens, level + 1)
    while rest and rest[0] in operators:
        right, after = _chain(rest[1:], level + 1)
        value, rest = operators[rest[0]](value, right), after
    return value, rest


def _operand(tokens: list[str]) -> tuple[int, list[str]]:
    first, rest = tokens[0], tokens[1:]
    if first == "-":
        value, rest = _operand(rest)
        return -value, rest
    if first == "(":
        value, rest = _chain(rest, 0)
        if rest[0] != ")":
            raise ValueError("a parenthesis is not closed")
        return value, rest[1:]
    return int(first), rest
