"""The leaves of nested settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def leaves(tree: Mapping[str, Any], *sections: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the keys that lead to each setting, those of its sections first, and its value; an empty mapping is one."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, *sections, str(key))
        else:
            yield (*sections, str(key)), value
