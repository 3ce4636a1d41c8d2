"""The check of settings that a file stores, such as the model in a checkpoint's description."""

from __future__ import annotations

import math
import reprlib
import typing
from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.config.settings.setting import Setting, group_settings

_INT64 = 1 << 63
_DESCRIPTIONS: dict[type, str] = {
    bool: "true or false", int: "an integer", float: "a finite number", str: "a text",
}  # fmt: skip


def check_stored(group: type, values: Mapping[str, Any]) -> None:
    """Check names, types and conditions of stored values of a group of settings; absent and null ones have defaults.

    Raises:
        ValueError: A key is unknown or missing, or a value is of another type or not acceptable; the message names it.
    """
    settings = group_settings(group)
    for key, value in values.items():
        if key not in settings:
            raise ValueError(f"{ascii(str(key))[1:-1][:80]} is not a known key{did_you_mean(str(key), settings)}")
        if value is not None:
            _check(key, value, settings[key])
    for key, item in settings.items():
        if values.get(key) is None and item.is_required:
            raise ValueError(f"{key} is missing")
        if key in values and values[key] is None and not _may_be_none(item):
            raise ValueError(f"{key} is null, expected {_described(_kind(item))}")


def _check(key: str, value: Any, item: Setting) -> None:
    if not _has_type(value, _kind(item)):
        raise ValueError(f"{key} is {reprlib.repr(value)}, expected {_described(_kind(item))}")
    if item.info.choices and not isinstance(value, (list, tuple)) and value not in item.info.choices:
        raise ValueError(f"{key} is {value!r}, expected one of {', '.join(item.info.choices)}")
    if item.info.check and not item.info.check.accepts(value):
        raise ValueError(f"{key} is {reprlib.repr(value)}, expected {item.info.check.description}")


def _has_type(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, (list, tuple)) and all(_has_type(part, typing.get_args(kind)[0]) for part in value)
    if kind is int:
        return type(value) is int and abs(value) < _INT64
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)
    return isinstance(value, kind)


def _described(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list, each item {_DESCRIPTIONS[typing.get_args(kind)[0]]}"
    return _DESCRIPTIONS[kind]


def _kind(item: Setting) -> Any:
    """The type of a setting without None, such as `int` or `tuple[int, ...]`."""
    if typing.get_origin(item.type) is tuple:
        return item.type
    inside = typing.get_args(item.type) or (item.type,)
    return next(kind for kind in inside if kind is not type(None))


def _may_be_none(item: Setting) -> bool:
    return item.default is None
