"""Resolves the keys of a handler to columns: `map_keys` over the handler's defaults, checked against the data.

A key set to `""` or null means that the data has no such column. `column_mapping` reads the values of a row.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.preprocessing.column_mapping import (
    KTO_TAG,
    MEDIA_COLUMNS,
    TOOL_COLUMNS,
    ColumnMapping,
    as_tuple,
)

_OWN_COLUMNS = (*TOOL_COLUMNS, *MEDIA_COLUMNS)


@dataclass(frozen=True)
class ColumnSpec:
    """The columns that a handler reads.

    Attributes:
        defaults: Map key -> column used if the key is not given; None for no column.
        required: Keys that need a column.
        ignored: Keys that are accepted and have no effect.
        tags: Default names of message keys and roles; None if the handler does not accept `tags`.
        listed: Keys that name one column with a list, or a list of columns.
    """

    defaults: Mapping[str, str | tuple[str, ...] | None]
    required: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    tags: Mapping[str, str] | None = None
    listed: tuple[str, ...] = ()

    @property
    def all_defaults(self) -> dict[str, str | tuple[str, ...] | None]:
        """The defaults of all keys that name columns, with those that every handler has."""
        return {**self.defaults, **{key: key for key in _OWN_COLUMNS}}

    @property
    def allowed_keys(self) -> list[str]:
        """Every key that is allowed in `map_keys`."""
        return [*self.all_defaults, *self.ignored, *(["tags"] if self.tags is not None else [])]


def map_key_problems(spec: ColumnSpec, map_keys: Mapping[str, Any]) -> list[str]:
    """Check `map_keys` before any data is read; return one sentence for each problem."""
    problems = [
        f"map_keys: {key!r} is not a key of this handler; accepted: {', '.join(spec.allowed_keys)}"
        + did_you_mean(key, spec.allowed_keys)
        for key in map_keys
        if key not in spec.allowed_keys
    ]
    for key, default in spec.all_defaults.items():
        value = map_keys.get(key)
        expected = _expected_names(key, default, spec, value)
        if value not in ("", None) and expected:
            problems.append(f"map_keys: {key} should be {expected}, got {json.dumps(value)}")
    problems += _tag_problems(spec, map_keys.get("tags"))
    return problems


def _expected_names(key: str, default: Any, spec: ColumnSpec, value: Any) -> str:
    """Return what the value of a key should be; empty if it is that."""
    is_list = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if isinstance(default, tuple):
        return "" if is_list and len(value) == len(default) else "a list of two column names"
    if isinstance(value, str) or (is_list and key in spec.listed and len(value) > 1):
        return ""
    return "a column name or a list of several" if key in spec.listed else "a column name"


def _tag_problems(spec: ColumnSpec, tags: Any) -> list[str]:
    if tags is None or spec.tags is None:
        return []
    if not isinstance(tags, Mapping) or not all(isinstance(value, str) for value in tags.values()):
        return [f"map_keys: tags should map tag names to texts, got {json.dumps(tags)}"]
    return [
        f"map_keys: {tag!r} is not a tag; accepted: {', '.join(spec.tags)}" + did_you_mean(tag, spec.tags)
        for tag in tags
        if tag not in spec.tags
    ]


def resolve_columns(
    spec: ColumnSpec, map_keys: Mapping[str, Any], available: Collection[str], source: str
) -> ColumnMapping:
    """Resolve every key to a column of the data.

    Args:
        spec: The columns that the handler reads.
        map_keys: User settings, already checked with `map_key_problems`.
        available: The columns of the data.
        source: Name of the data, for messages.

    Raises:
        ValueError: A given or required column is missing from the data; the message lists the available columns.
    """
    names: dict[str, str | tuple[str, ...] | None] = {}
    problems = []
    for key, name, must_exist in _resolved(spec, map_keys):
        missing = [column for column in as_tuple(name) if column not in available]
        if missing and must_exist:
            problems.append(f"{key} should come from column {missing[0]!r}{did_you_mean(missing[0], available)}")
        elif name is None and key in spec.required:
            problems.append(f"{key} needs a column")
        # A column that the user maps to another key is meant to be read.
        names[key] = None if key in _OWN_COLUMNS and name in names.values() else name
    if problems:
        present = ", ".join(sorted(map(str, available))) or "none"
        advice = "Set map_keys accordingly."
        if KTO_TAG in names and names[KTO_TAG] in available:
            advice += f" Rows with one response and a column {names[KTO_TAG]!r}, as for KTO, are no pairs."
        raise ValueError(f"{source}: {'; '.join(problems)}. Columns in the data: {present}. {advice}")
    return ColumnMapping(names, {**(spec.tags or {}), **(map_keys.get("tags") or {})}, spec.required)


def needed_columns(spec: ColumnSpec, map_keys: Mapping[str, Any]) -> set[str]:
    """Return the columns that the data must have: those that are given and those of required keys."""
    resolved = _resolved(spec, map_keys)
    return {column for _, name, must_exist in resolved if must_exist for column in as_tuple(name)}


def _resolved(spec: ColumnSpec, map_keys: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Yield each key with its column or columns, and whether the data must have them."""
    for key, default in spec.all_defaults.items():
        value = map_keys.get(key, default)
        name = tuple(value) if isinstance(value, list) else value or None
        is_named = key in map_keys and key != KTO_TAG
        yield key, name, name is not None and (is_named or key in spec.required)
