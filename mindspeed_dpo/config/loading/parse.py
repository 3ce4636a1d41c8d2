"""Parsing of one value of a YAML file or an override into the declared type of its setting."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mindspeed_dpo.config.names import did_you_mean, join_words
from mindspeed_dpo.config.settings.evaluation import UNNAMED_SET
from mindspeed_dpo.config.settings.field import Setting, SettingInfo


def parse_value(value: Any, setting: Setting) -> Any:
    """Parse `value` as the type of a setting and apply the choices and the check of the setting.

    Null, and empty text for an optional text, are returned as None: not set.

    Raises:
        ValueError: The value is not acceptable; the message is the end of the sentence "key=value …".
    """
    kind, is_list = scalar_type(setting.type)
    if value is None or (value == "" and (kind in (str, dict) or is_list)):
        return None
    parsed = tuple(map(_PARSERS[kind], _items(value))) if is_list else _PARSERS[kind](value)
    info = setting.info
    for item in parsed if is_list else (parsed,):
        _check_choice(item, info)
    if info.check and not info.check.accepts(parsed):
        raise ValueError(f"must be {info.check.description}")
    return parsed


def scalar_type(declared_type: Any) -> tuple[type, bool]:
    """Return the scalar type of a declared type, without None, and whether a list of it is declared."""
    inside = typing.get_args(declared_type) or (declared_type,)
    kind = next(item for item in inside if item is not type(None))
    if typing.get_origin(kind) is Mapping:
        return dict, False
    return kind, typing.get_origin(declared_type) is tuple


def _items(value: Any) -> list[Any]:
    """Return the items of a list; a text is split at commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_choice(value: Any, info: SettingInfo) -> None:
    if info.refused and value in info.refused:
        raise ValueError(f"is refused: {info.refused[value]}")
    if info.choices and value not in info.choices:
        hint = did_you_mean(str(value), info.choices) if len(info.choices) > 1 else ""
        raise ValueError(f"is not supported; choose {join_words(info.choices)}{hint}")


def _parse_bool(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _parse_int(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer")
    return value


def _parse_float(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number")
    return number


def _parse_str(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be a single text")
    return str(value)


def _parse_named_texts(value: Any) -> dict[str, str]:
    """Parse texts by name; a single text gets the name of an unnamed set."""
    if not isinstance(value, Mapping):
        return {UNNAMED_SET: _parse_str(value)}
    texts = {str(name): _parse_str(text) for name, text in value.items() if text is not None}
    if not texts:
        raise ValueError("must be a single text, or a text for each name")
    return texts


_PARSERS: dict[type, Callable[[Any], Any]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: _parse_str,
    dict: _parse_named_texts,
}
