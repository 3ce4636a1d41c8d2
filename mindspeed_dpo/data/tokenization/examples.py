"""Examples, the intermediate form between raw rows and token ids, and the reasons for which rows are dropped.

Handlers create examples from columns, and encoders tokenize them. Both drop a row by raising `RowDropped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
"""One raw row: column name -> value."""

MALFORMED = {
    "missing_column": "a column of map_keys is missing from the row",
    "not_text": "a value does not have the expected type",
    "bad_turns": "turns do not alternate, or the last one has an unexpected role",
    "unknown_role": "a role is not among the tags",
    "no_common_prompt": "chosen and rejected do not continue the same prompt",
    "tools": "tool text or function calls, which templates do not support",
    "not_plain": "a system text or earlier turns, which prompt_type plain does not support",
    "refused_by_template": "the tokenizer's chat template rejects the dialogue",
}
"""Reasons for rows without the format of the handler; the run fails if too many rows are malformed."""

UNUSABLE = {
    "empty_prompt": "the prompt has no text or no tokens",
    "empty_response": "a response has no text or no tokens",
    "identical_responses": "chosen and rejected are the same",
    "no_preference": "the row does not mark the better response",
    "too_long": "a sequence has seq_length tokens or more",
}
"""Reasons for well-formed rows that cannot be used for training."""

REASONS = {**MALFORMED, **UNUSABLE}


class RowDropped(Exception):
    """Raised for a row that cannot be used.

    Attributes:
        reason: Key of `REASONS`.
        detail: Further explanation, may be empty.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise KeyError(reason)
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Turn:
    """One message; its role is user or observation (inputs), assistant or function (outputs), or system."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A dialogue up to a response of the assistant: an odd number of turns, of which the last is an input.

    Example:
        Prompt((Turn("user", "2 + 2?"), Turn("assistant", "4"), Turn("user", "3 + 3?")), system="Be brief.")
    """

    turns: tuple[Turn, ...]
    system: str = ""


@dataclass(frozen=True)
class PairExample:
    """A prompt with two responses."""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PromptExample:
    """A prompt with additional texts that are not part of it, by column name."""

    prompt: Prompt
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairTokens:
    """Token ids of one pair, whose sequences are `prompt + chosen` and `prompt + rejected`.

    Example:
        PairTokens(prompt=[5, 6], chosen=[7, 2], rejected=[8, 9, 2], prompt_tail=0)

    Attributes:
        prompt: Token ids of the prompt.
        chosen: Token ids of the chosen response.
        rejected: Token ids of the rejected response.
        prompt_tail: Number of tokens at the end of the prompt that merge with a response and are counted as part of it.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_tail: int = 0
