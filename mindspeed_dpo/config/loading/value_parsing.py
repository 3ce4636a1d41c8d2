"""Parsing of one value of a YAML file or an override into the declared type of its setting.

Values arrive as the text that was written. Numbers may be written as in YAML, with `_` between digits or as 0x10; truth
values are true, yes and on, or false, no and off.
"""

from __future__ import annotations

import math
import os
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean, join_words
from mindspeed_dpo.config.settings.evaluation import UNNAMED_SET
from mindspeed_dpo.config.settings.setting import Setting, SettingInfo
from mindspeed_dpo.storage.user_paths import no_home_folder
from mindspeed_dpo.storage.write_errors import MAX_PATH_CHARACTERS

_INT64 = 1 << 63
_MAX_DIGITS = 300
_NUMBER = re.compile(r"[+-]?(\d+(_\d+)*\.?(\d+(_\d+)*)?|\.\d+(_\d+)*)([eE][+-]?\d+)?", re.ASCII)
_HOME = re.compile(r"(?:^|(?<=,))(\s*)(~[^,]*)")
_TRUTH_WORDS: dict[str, bool] = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


def parse_value(value: Any, setting: Setting) -> Any:
    """Parse `value` as the type of a setting and apply the choices and the check of the setting.

    Null, and empty text for an optional text, are returned as None: not set. `~` in a path is the home folder. A
    synonym is returned as the choice that it stands for.

    Raises:
        ValueError: The value is not acceptable; the message is the end of the sentence "key=value …".
    """
    kind, is_list = scalar_type(setting.type)
    if value is None or (value == "" and (kind in (str, dict, Mapping) or is_list)):
        return None
    parsed = tuple(map(_PARSERS[kind], _items(value))) if is_list else _PARSERS[kind](value)
    info = setting.info
    if isinstance(parsed, str):
        parsed = info.synonyms.get(parsed, parsed)
    if info.is_path:
        parsed = expand_home(parsed)
        _check_path(parsed)
    for item in parsed if is_list else (parsed,):
        _check_choice(item, info)
    if info.check and not info.check.accepts(parsed):
        raise ValueError(f"must be {info.check.description}")
    return parsed


def expand_home(value: Any) -> Any:
    """Replace `~` at the start of a path, of each path of a mapping, or of each path in a text `a,b`."""
    if isinstance(value, Mapping):
        return {name: expand_home(path) for name, path in value.items()}
    return _HOME.sub(lambda match: match[1] + os.path.expanduser(match[2]), value)


def _check_path(value: Any) -> None:
    for text in value.values() if isinstance(value, Mapping) else [value]:
        if match := _HOME.search(text):
            raise ValueError(no_home_folder(match[2]))
        if max(map(len, text.split(","))) > MAX_PATH_CHARACTERS:
            raise ValueError(f"is longer than a path can be, {MAX_PATH_CHARACTERS} characters")


def scalar_type(declared_type: Any) -> tuple[type, bool]:
    """Return the scalar type of a declared type, without None, and whether a list of it is declared.

    `dict` stands for texts by name, `Mapping` for values of any type by name.
    """
    inside = typing.get_args(declared_type) or (declared_type,)
    kind = next(item for item in inside if item is not type(None))
    if typing.get_origin(kind) is Mapping:
        return (Mapping if typing.get_args(kind)[1] is Any else dict), False
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


def parse_plain(value: Any) -> Any:
    """Return what a text means where no type is declared, as YAML would; lists and mappings by their items."""
    if isinstance(value, Mapping):
        return {key: parse_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [parse_plain(item) for item in value]
    for parser in (_parse_bool, _parse_int, _parse_float):
        try:
            return parser(value) if isinstance(value, str) else value
        except ValueError:
            continue
    return value


def _parse_bool(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in _TRUTH_WORDS:
        return _TRUTH_WORDS[value.strip().lower()]
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _parse_int(value: Any) -> int:
    number = _written_int(value) if isinstance(value, str) else value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError("must be an integer")
    if not -_INT64 <= number < _INT64:
        raise ValueError("must be an integer of 64 bits")
    return number


def _written_int(text: str) -> int | float | None:
    text = text.strip()
    if len(text) > _MAX_DIGITS:
        return None
    if re.fullmatch(r"[+-]?\d+(_\d+)*", text, re.ASCII):
        return int(text)
    if re.fullmatch(r"[+-]?0[xX][0-9a-fA-F]+", text):
        return int(text, 16)
    return float(text) if _NUMBER.fullmatch(text) else None


def _parse_float(value: Any) -> float:
    text = value.strip() if isinstance(value, str) else None
    if text is not None:
        value = float(text) if _NUMBER.fullmatch(text) else None
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
    text = str(value)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must have no null characters and no halves of surrogate pairs")
    return text


def _parse_named_texts(value: Any) -> dict[str, str]:
    """Parse texts by name; a single text gets the name of an unnamed set."""
    if not isinstance(value, Mapping):
        return {UNNAMED_SET: _parse_str(value)}
    texts = {str(name): _parse_str(text) for name, text in value.items() if text is not None}
    if not texts:
        raise ValueError("must be a single text, or a text for each name")
    return texts


def _parse_named_values(value: Any) -> dict[str, Any]:
    """Parse values of any type by name, each as YAML would read it; null is kept."""
    if not isinstance(value, Mapping):
        raise ValueError("must be values by name, such as {name: value}")
    return {str(name): parse_plain(item) for name, item in value.items()}


_PARSERS: dict[type, Callable[[Any], Any]] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: _parse_str,
    dict: _parse_named_texts,
    Mapping: _parse_named_values,
}
