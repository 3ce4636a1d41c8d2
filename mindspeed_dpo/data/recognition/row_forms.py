"""A form of raw rows: the handler that reads it, and the columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mindspeed_dpo.data.recognition.row_columns import MESSAGES, TEXT, RowColumns

_PROMPTS = ("prompt", "instruction", "question", "query", "problem", "context")
_LAST_PROMPTS = ("input", "text")
"""Names of a prompt's column only where no other is there: they also name what is added to an instruction."""
_DIALOGUES = ("messages", "conversations", "conversation", "prompt", "context")
_SYSTEMS = ("system", "system_prompt")


@dataclass(frozen=True)
class RowForm:
    """A form, for example `RowForm("two dialogues", "DialoguePairwiseHandler", {"chosen": "chosen"})`.

    Attributes:
        description: What the rows hold.
        handler_name: The handler.
        map_keys: Its columns, as `preprocess_data.py` takes them.
        options: Further settings of preprocessing that the form needs.
    """

    description: str
    handler_name: str
    map_keys: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

    def as_words(self) -> str:
        """Return the settings as words of a command line."""
        return f"handler_name={self.handler_name} 'map_keys={json.dumps(dict(self.map_keys), ensure_ascii=False)}'"


@dataclass(frozen=True)
class PromptReading:
    """One reading of the prompt of a row: `PromptReading("a prompt", {"prompt": "question", "query": ""}, "prompt")`.

    Attributes:
        description: What the columns hold.
        map_keys: The keys of the prompt.
        key: `prompt` for a text, `messages` for a dialogue.
    """

    description: str
    map_keys: Mapping[str, Any]
    key: str


def prompt_columns(columns: RowColumns) -> list[PromptReading]:
    """Return every reading of the prompt, of which more than one makes the rows ambiguous."""
    system = columns.first(_SYSTEMS, TEXT)
    extra = {"system": system} if system else {}
    found = [*_dialogues(columns, extra), *_texts(columns, extra)]
    return found or [*_last_texts(columns, extra)]


def _dialogues(columns: RowColumns, extra: Mapping[str, Any]) -> Iterator[PromptReading]:
    for name in _DIALOGUES:
        if columns.has(name, MESSAGES):
            tags = columns.tags(name)
            keys = {"messages": name, **extra, **({"tags": tags} if tags else {})}
            yield PromptReading(f"the dialogue {name}", keys, "messages")


def _texts(columns: RowColumns, extra: Mapping[str, Any]) -> Iterator[PromptReading]:
    seen: list[str] = []
    for name in _PROMPTS:
        if not columns.has(name, TEXT) or any(columns.same_values(name, other) for other in seen):
            continue
        seen.append(name)
        has_input = name == "instruction" and columns.has("input", TEXT)
        history = {"history": "history"} if columns.has("history", "other") else {}
        keys = {"prompt": name, "query": "input" if has_input else "", **history, **extra}
        yield PromptReading(f"the text {name}{' with input' if has_input else ''}", keys, "prompt")


def _last_texts(columns: RowColumns, extra: Mapping[str, Any]) -> Iterator[PromptReading]:
    name = columns.first(_LAST_PROMPTS, TEXT)
    if name:
        yield PromptReading(f"the text {name}", {"prompt": name, "query": "", **extra}, "prompt")
