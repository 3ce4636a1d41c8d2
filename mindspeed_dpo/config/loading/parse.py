"""One value of a YAML file or an override, made into the declared type of its setting, or refused with a sentence."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mindspeed_dpo.config.legacy.aliases import did_you_mean, listing
from mindspeed_dpo.config.settings.evaluation import GIVEN
from mindspeed_dpo.config.settings.field import Setting, SettingInfo


def format_value(value: object) -> str:
    """A value as YAML would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {format_value(item)}' for name, item in value.items())}}}"
    return repr(value) if isinstance(value, str) and (not value or value != value.strip()) else str(value)


def coerce(value: Any, declared: Setting) -> Any:
    """Read `value` as the declared type and apply the setting's own conditions.

    Null, and empty text where text may be absent, come back as None: not given.

    Raises:
        ValueError: The value does not fit; the text finishes the sentence "key=value …".
    """
    kind, is_list = scalar_type(declared.type)
    if value is None or (value == "" and (kind in (str, dict) or is_list)):
        return None
    read = tuple(map(_READERS[kind], _items(value))) if is_list else _READERS[kind](value)
    about = declared.about
    for item in read if is_list else (read,):
        _choose(item, about)
    if about.check and not about.check.holds(read):
        raise ValueError(f"must be {about.check.words}")
    return read


def scalar_type(declared_type: Any) -> tuple[type, bool]:
    """The scalar type behind a declared one, None left out, and whether a list of it is declared."""
    inside = typing.get_args(declared_type) or (declared_type,)
    kind = next(item for item in inside if item is not type(None))
    if typing.get_origin(kind) is Mapping:
        return dict, False
    return kind, typing.get_origin(declared_type) is tuple


def _items(value: Any) -> list[Any]:
    """The elements of a list; one text stands for its parts between commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _choose(value: Any, about: SettingInfo) -> None:
    """Refuse what is not among the choices; each item of a list has them."""
    if about.not_yet and value in about.not_yet:
        raise ValueError(f"is refused: {about.not_yet[value]}")
    if about.choices and value not in about.choices:
        hint = did_you_mean(str(value), about.choices) if len(about.choices) > 1 else ""
        raise ValueError(f"is not known; choose {listing(about.choices)}{hint}")


def _read_bool(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _read_int(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number")
    return value


def _read_float(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("must be a number")
    return number


def _read_str(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be one text")
    return str(value)


def _read_named(value: Any) -> dict[str, str]:
    """Texts by name; a text alone has the name of what has none."""
    if not isinstance(value, Mapping):
        return {GIVEN: _read_str(value)}
    return {str(name): _read_str(text) for name, text in value.items() if text is not None} or _nothing_named()


def _nothing_named() -> dict[str, str]:
    raise ValueError("must be one text, or names with a text each")


_READERS: dict[type, Callable[[Any], Any]] = {
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    str: _read_str,
    dict: _read_named,
}
