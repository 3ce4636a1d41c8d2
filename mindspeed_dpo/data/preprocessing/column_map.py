"""Maps the keys of a handler to columns of the data: `map_keys` over the handler's defaults, checked against the data.

A key set to `""` or null means that the data has no such column. A column that a row lacks is empty in this row, as if
it were null, unless the handler requires it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.data.tokenization.message_fields import is_empty

UNSUPPORTED_COLUMNS = {
    **dict.fromkeys(("tools", "functions"), "tools"),
    **dict.fromkeys(("image", "images", "audio", "audios", "video", "videos"), "media"),
}
"""Keys of every handler whose column must be empty, with the reason for which other rows are dropped.

Each is also the name of the column; a row with tools or images means something else without them.
"""


@dataclass(frozen=True)
class ColumnSpec:
    """The columns that a handler reads.

    Attributes:
        defaults: Map key -> column used if the key is not given; None for no column.
        required: Keys that need a column.
        ignored: Keys that are accepted and have no effect.
        tags: Default names of message keys and roles; None if the handler does not accept `tags`.
    """

    defaults: Mapping[str, str | tuple[str, ...] | None]
    required: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    tags: Mapping[str, str] | None = None

    @property
    def all_defaults(self) -> dict[str, str | tuple[str, ...] | None]:
        """The defaults of all keys that name columns, with those of columns that must be empty."""
        return {**self.defaults, **{key: key for key in UNSUPPORTED_COLUMNS}}

    @property
    def allowed_keys(self) -> list[str]:
        """Every key that is allowed in `map_keys`."""
        return [*self.all_defaults, *self.ignored, *(["tags"] if self.tags is not None else [])]


@dataclass(frozen=True)
class ColumnMapping:
    """The columns in effect.

    Example:
        ColumnMapping(
            names={"prompt": "question", "chosen": "good", "rejected": "bad", "system": None},
            tags={},
            required=("prompt", "chosen", "rejected"),
        )

    Attributes:
        names: Map key -> column name, tuple of column names, or None for no column.
        tags: Tag name -> spelling of a message key or a role in the data.
        required: Keys whose columns every row must have.
    """

    names: Mapping[str, str | tuple[str, ...] | None]
    tags: dict[str, str]
    required: tuple[str, ...] = ()

    def get(self, row: Row, key: str) -> Any:
        """Return the value of a key in a row, or None if the key has no column or the row lacks an optional one.

        Raises:
            RowDropped: A required column is missing from this row.
        """
        name = self.names[key]
        if name is None:
            return None
        return _value(row, str(name)) if key in self.required else row.get(str(name))

    def all(self, row: Row, key: str) -> list[Any]:
        """Return the values of a key that names several columns.

        Raises:
            RowDropped: A column is missing from this row.
        """
        return [_value(row, name) for name in self.names[key] or ()]

    def check_unsupported(self, row: Row) -> None:
        """Check that a row holds nothing in a column of `UNSUPPORTED_COLUMNS`.

        Raises:
            RowDropped: It does; the message says how to ignore the column.
        """
        for key, reason in UNSUPPORTED_COLUMNS.items():
            name = self.names.get(key)
            if name is not None and not is_empty(row.get(str(name))):
                advice = f"if it can be ignored, set {key} to an empty text in map_keys"
                raise RowDropped(reason, f"column {name!r} is not empty; {advice}")

    @property
    def columns(self) -> set[str]:
        """All columns that are read."""
        return {column for name in self.names.values() for column in _as_tuple(name)}


def _value(row: Row, name: str) -> Any:
    if name not in row:
        raise RowDropped("missing_column", f"there is no {name!r} in this row")
    return row[name]


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
        missing = [column for column in _as_tuple(name) if column not in available]
        if missing and must_exist:
            problems.append(f"{key} should come from column {missing[0]!r}{did_you_mean(missing[0], available)}")
        elif name is None and key in spec.required:
            problems.append(f"{key} needs a column")
        # A column that the user maps to another key is meant to be read.
        names[key] = None if key in UNSUPPORTED_COLUMNS and name in names.values() else name
    if problems:
        present = ", ".join(sorted(map(str, available))) or "none"
        raise ValueError(f"{source}: {'; '.join(problems)}. Columns in the data: {present}. Set map_keys accordingly.")
    return ColumnMapping(names, {**(spec.tags or {}), **(map_keys.get("tags") or {})}, spec.required)


def needed_columns(spec: ColumnSpec, map_keys: Mapping[str, Any]) -> set[str]:
    """Return the columns that the data must have: those that are given and those of required keys."""
    resolved = _resolved(spec, map_keys)
    return {column for _, name, must_exist in resolved if must_exist for column in _as_tuple(name)}


def _resolved(spec: ColumnSpec, map_keys: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Yield each key with its column or columns, and whether the data must have them."""
    for key, default in spec.all_defaults.items():
        value = map_keys.get(key, default)
        name = tuple(value) if isinstance(value, list) else value or None
        yield key, name, name is not None and (key in map_keys or key in spec.required)


def _as_tuple(name: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if name is None else name if isinstance(name, tuple) else (name,)
