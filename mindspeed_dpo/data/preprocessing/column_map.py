"""Which column of the data plays which part: `map_keys` over the handler's defaults, checked against the data.

A key given as `""` or null means the data has no such column. A default that the data lacks is absent as well, unless
the handler cannot do without it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.names import did_you_mean
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped


@dataclass(frozen=True)
class ColumnSpec:
    """What a handler reads.

    Attributes:
        defaults: map key -> the column read when the key is not given (None: no column).
        required: Keys without which the handler has nothing to work on.
        ignored: Keys that are accepted and change nothing.
        tags: The spelling of message keys and roles, where `tags` may be given; else None.
    """

    defaults: Mapping[str, str | tuple[str, ...] | None]
    required: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    tags: Mapping[str, str] | None = None

    @property
    def known_keys(self) -> list[str]:
        """Every key that `map_keys` may hold."""
        return [*self.defaults, *self.ignored, *(["tags"] if self.tags is not None else [])]


@dataclass(frozen=True)
class Columns:
    """The columns in effect: map key -> column name, tuple of names, or None."""

    names: Mapping[str, str | tuple[str, ...] | None]
    tags: dict[str, str]

    def get(self, row: Row, key: str) -> Any:
        """The value of a key in a row, None where there is no such column.

        Raises:
            RowDropped: The column exists in the data, but not in this row.
        """
        name = self.names[key]
        return None if name is None else _value(row, str(name))

    def all(self, row: Row, key: str) -> list[Any]:
        """The values of a key that names several columns."""
        return [_value(row, name) for name in self.names[key] or ()]


def _value(row: Row, name: str) -> Any:
    if name not in row:
        raise RowDropped("missing_column", f"there is no {name!r} in this row")
    return row[name]


def map_key_problems(spec: ColumnSpec, map_keys: Mapping[str, Any]) -> list[str]:
    """What is wrong with `map_keys` before any data is read, one sentence each."""
    problems = [
        f"map_keys: {key!r} is not a key of this handler, which knows {', '.join(spec.known_keys)}"
        + did_you_mean(key, spec.known_keys)
        for key in map_keys
        if key not in spec.known_keys
    ]
    for key, default in spec.defaults.items():
        value = map_keys.get(key)
        plural = isinstance(default, tuple)
        ok = value in ("", None) or (isinstance(value, list) and len(value) == 2 if plural else isinstance(value, str))
        if not ok:
            expected = "a list of two column names" if plural else "a column name"
            problems.append(f"map_keys: {key} should be {expected}, got {json.dumps(value)}")
    problems += _tag_problems(spec, map_keys.get("tags"))
    return problems


def _tag_problems(spec: ColumnSpec, tags: Any) -> list[str]:
    if tags is None or spec.tags is None:
        return []
    if not isinstance(tags, Mapping) or not all(isinstance(value, str) for value in tags.values()):
        return [f"map_keys: tags should map tag names to texts, got {json.dumps(tags)}"]
    return [
        f"map_keys: {tag!r} is not a tag; known are {', '.join(spec.tags)}" + did_you_mean(tag, spec.tags)
        for tag in tags
        if tag not in spec.tags
    ]


def resolve_columns(spec: ColumnSpec, map_keys: Mapping[str, Any], available: Collection[str], source: str) -> Columns:
    """Settle every key on a column of the data.

    Args:
        spec: What the handler reads.
        map_keys: What the user says; already free of `map_key_problems`.
        available: The columns of the data.
        source: The file they come from, for messages.

    Raises:
        ValueError: A named column is not in the data, or a required one is absent; lists the columns there are.
    """
    names: dict[str, str | tuple[str, ...] | None] = {}
    problems = []
    for key, default in spec.defaults.items():
        name, given = _settle(default, map_keys, key)
        missing = [column for column in _as_tuple(name) if column not in available]
        if missing and (given or key in spec.required):
            problems.append(f"{key} should come from column {missing[0]!r}{did_you_mean(missing[0], available)}")
        elif name is None and key in spec.required:
            problems.append(f"{key} needs a column")
        names[key] = None if missing else name
    if problems:
        there = ", ".join(sorted(map(str, available))) or "none"
        raise ValueError(f"{source}: {'; '.join(problems)}. Columns in the data: {there}. Set map_keys accordingly.")
    return Columns(names, {**(spec.tags or {}), **(map_keys.get("tags") or {})})


def _settle(default: Any, map_keys: Mapping[str, Any], key: str) -> tuple[Any, bool]:
    """The column(s) of a key, and whether the user named them."""
    if key not in map_keys:
        return default, False
    value = map_keys[key]
    if value in ("", None):
        return None, False
    return (tuple(value) if isinstance(value, list) else value), True


def _as_tuple(name: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if name is None else name if isinstance(name, tuple) else (name,)
