"""The columns of sampled rows and the kinds of their values: text, messages, a list of texts or of objects, number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mindspeed_dpo.data.tokenization.dialogue_parsing import OPENAI_TAGS, SHAREGPT_TAGS
from mindspeed_dpo.data.tokenization.examples import Row
from mindspeed_dpo.data.tokenization.message_fields import is_empty

TEXT, MESSAGES, TEXTS, OBJECTS, NUMBER, OTHER = "text", "messages", "texts", "objects", "number", "other"
_TRANSCRIPT = re.compile(r"\s*Human:")


def kind_of(value: Any) -> str:
    """Return the kind of a value that is not empty."""
    if isinstance(value, str):
        return TEXT
    if isinstance(value, bool | int | float):
        return NUMBER
    if isinstance(value, dict):
        return MESSAGES if is_message(value) else OTHER
    if not isinstance(value, list | tuple) or not value:
        return OTHER
    if all(isinstance(item, str) for item in value):
        return TEXTS
    if not all(isinstance(item, dict) for item in value):
        return OTHER
    return MESSAGES if all(map(is_message, value)) else OBJECTS


def is_message(value: Any) -> bool:
    """Return whether a value is a message of OpenAI's or of ShareGPT's form."""
    return isinstance(value, dict) and any(
        {tags["role_tag"], tags["content_tag"]} <= value.keys() for tags in (OPENAI_TAGS, SHAREGPT_TAGS)
    )


@dataclass(frozen=True)
class RowColumns:
    """Sampled rows, by column: `RowColumns(({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},))`.

    Attributes:
        rows: The rows.
    """

    rows: tuple[Row, ...]

    @property
    def names(self) -> list[str]:
        """The columns that hold something, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name, value in row.items() if not is_empty(value)))

    def values(self, name: str) -> list[Any]:
        """Return the values of a column that are not empty."""
        return [row[name] for row in self.rows if name in row and not is_empty(row[name])]

    def kind(self, name: str) -> str:
        """Return the kind of a column's values; empty if there are none, `other` if they differ in kind."""
        kinds = {kind_of(value) for value in self.values(name)}
        return next(iter(kinds)) if len(kinds) == 1 else OTHER if kinds else ""

    def has(self, name: str, *kinds: str) -> bool:
        """Return whether a column holds values of one of these kinds."""
        return self.kind(name) in kinds

    def first(self, names: Sequence[str], *kinds: str) -> str | None:
        """Return the first of the named columns that holds values of one of these kinds."""
        return next((name for name in names if self.has(name, *kinds)), None)

    def tags(self, name: str) -> dict[str, str]:
        """Return the names of keys and roles of a column of messages, as `map_keys` takes them."""
        value = self.values(name)[0]
        message = value if isinstance(value, dict) else value[0]
        if OPENAI_TAGS["role_tag"] not in message:
            return {}
        human = any(
            item.get(OPENAI_TAGS["role_tag"]) == SHAREGPT_TAGS["user_tag"]
            for value in self.values(name)
            for item in (value if isinstance(value, list | tuple) else [value])
        )
        keys = ("role_tag", "content_tag") if human else tuple(OPENAI_TAGS)
        return {key: OPENAI_TAGS[key] for key in keys}

    def are_dialogues(self, name: str) -> bool:
        """Return whether a column holds complete dialogues: messages from a user's on, or a transcript."""
        if self.has(name, TEXT):
            return all(_TRANSCRIPT.match(value) for value in self.values(name))
        tags = self.tags(name) or SHAREGPT_TAGS if self.has(name, MESSAGES) else None
        return tags is not None and all(_starts_with_user(value, tags) for value in self.values(name))

    def same_values(self, first: str, second: str) -> bool:
        """Return whether two columns hold the same in every row."""
        return all(row.get(first) == row.get(second) for row in self.rows)


def _starts_with_user(value: Any, tags: dict[str, str]) -> bool:
    if not isinstance(value, list | tuple) or len(value) < 2:
        return False
    role = tags["role_tag"]
    roles = [message.get(role) for message in value if message.get(role) != OPENAI_TAGS["system_tag"]]
    return bool(roles) and roles[0] in (OPENAI_TAGS["user_tag"], SHAREGPT_TAGS["user_tag"])
