"""One configuration value with its origin, and how values are written in messages and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OVERRIDE = "override"
"""First word of the source of a value that the command line gives; the rest is what was typed."""


@dataclass(frozen=True)
class Origin:
    """The origin of a value, for example `Origin("training", "override training.lr=1e-6", 1e-6)`.

    Attributes:
        section: The section of the configuration, such as `training`.
        source: The file or the override.
        written: The value as parsed there; a derived or normalised value may differ from it.
    """

    section: str
    source: str
    written: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class SourcedValue:
    """A parsed value and its origin; None stands for an explicit null, which selects the default."""

    value: Any
    origin: Origin


Values = dict[str, SourcedValue]
"""Values of one section, or of one role, by key."""


def value_of(values: Values, key: str) -> Any:
    """The value of a key, or None where the key is absent."""
    item = values.get(key)
    return item.value if item else None


def format_value(value: object) -> str:
    """Format a value as YAML would write it: `null`, `true`, `[1, 2]`, `{name: path}`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {format_value(item)}' for name, item in value.items())}}}"
    return repr(value) if isinstance(value, str) and (not value or value != value.strip()) else str(value)
