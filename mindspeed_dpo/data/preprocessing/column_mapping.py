"""Reads the values of a row by the keys of its handler.

A column that a row lacks is empty in this row, as if it were null, unless the handler requires it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.data.tokenization.examples import Row, RowDropped
from mindspeed_dpo.data.tokenization.message_fields import is_empty
from mindspeed_dpo.data.tokenization.tool_fields import read_tools

MEDIA_COLUMNS = (
    *("image", "images", "image_path", "image_paths", "image_url", "image_urls"),
    *("audio", "audios", "audio_path", "video", "videos", "video_path"),
)
"""Keys of every handler whose column must be empty: a row with an image means something else without it.

Each is also the name of the column, as in `TOOL_COLUMNS`.
"""
TOOL_COLUMNS = ("tools", "functions")
"""Keys of every handler for the definitions of tools."""
KTO_TAG = "kto_tag"
"""Key for a column with a label of a single response; its name is that of LLaMA-Factory."""


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

    def listed(self, row: Row, key: str) -> list[Any] | None:
        """Return the values of a key that names one column with a list, or several columns; None if there are none.

        Raises:
            RowDropped: A required column is missing, or the one column holds no list.
        """
        if self.names[key] is None or isinstance(self.names[key], tuple):
            return self.all(row, key) if self.names[key] else None
        value = self.get(row, key)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise RowDropped("not_text", f"{key} should be a list, but is {type(value).__name__}")
        return list(value)

    def number(self, row: Row, key: str) -> float | None:
        """Return the number of a key in a row, or None if there is none.

        Raises:
            RowDropped: The value is not a number.
        """
        return as_number(self.get(row, key), key)

    def tools(self, row: Row) -> str:
        """Return the tools of a row as JSON text, empty for none.

        Raises:
            RowDropped: They have no known form.
        """
        names = [self.names.get(key) for key in TOOL_COLUMNS]
        given = [name for name in names if name is not None and not is_empty(row.get(str(name)))]
        if len(given) > 1:
            raise RowDropped("tools", f"the columns {' and '.join(map(str, given))} both define tools")
        try:
            return read_tools(row[str(given[0])]) if given else ""
        except RowDropped as dropped:
            advice = f"if it can be ignored, set {given[0]} to an empty text in map_keys"
            raise RowDropped(dropped.reason, f"column {given[0]!r}: {dropped.detail}; {advice}") from dropped

    def check_media(self, row: Row) -> None:
        """Check that a row holds nothing in a column of `MEDIA_COLUMNS`.

        Raises:
            RowDropped: It does; the message says how to ignore the column.
        """
        for key in MEDIA_COLUMNS:
            name = self.names.get(key)
            if name is not None and not is_empty(row.get(str(name))):
                advice = f"if it can be ignored, set {key} to an empty text in map_keys"
                raise RowDropped("media", f"column {name!r} is not empty; {advice}")

    def check_paired(self, row: Row) -> None:
        """Check that a row is not a single response with a label, as for KTO.

        Raises:
            RowDropped: It lacks a response and its label is true or false.
        """
        label = row.get(str(self.names.get(KTO_TAG)))
        responses = [row.get(str(self.names[key])) for key in ("chosen", "rejected") if self.names.get(key)]
        if any(map(is_empty, responses)) and str(label).strip().lower() in ("true", "false"):
            raise RowDropped("unpaired", f"column {self.names[KTO_TAG]!r} is {label}")

    @property
    def columns(self) -> set[str]:
        """All columns that are read."""
        return {column for name in self.names.values() for column in as_tuple(name)}


def _value(row: Row, name: str) -> Any:
    if name not in row:
        raise RowDropped("missing_column", f"there is no {name!r} in this row")
    return row[name]


def as_number(value: Any, what: str) -> float | None:
    """Return a finite number, also from a text as in csv files; None for null, an empty text and NaN.

    Raises:
        RowDropped: The value is something else.
    """
    text = "" if value is None else str(value).strip()
    if text.lower() in ("", "nan", "none", "null", "n/a"):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise RowDropped("not_text", f"{what} should be a number, got {value!r:.80}")
    return number


def as_tuple(name: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the columns that a key names."""
    return () if name is None else name if isinstance(name, tuple) else (name,)
