"""What a raw row becomes before it is tokenised, and the reasons for which a row is left out.

Handlers make these from columns, encoders turn them into token ids. Both leave a row out by raising `RowDropped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
"""One raw row: column name -> value."""

MALFORMED = {
    "missing_column": "a column named in map_keys is missing in this row",
    "not_text": "a value is not of the expected kind",
    "bad_turns": "turns do not alternate, or end with the wrong role",
    "unknown_role": "a role is not among the tags",
    "no_common_prompt": "chosen and rejected do not continue the same prompt",
    "tools": "tool text or function calls, which no template here can write",
    "not_plain": "a system text or earlier turns, which prompt_type plain cannot write",
    "refused_by_template": "the tokenizer's chat template refuses the dialogue",
}
"""Rows that are not what the handler expects: too many of them stop the run."""

UNUSABLE = {
    "empty_prompt": "the prompt has no text or no tokens",
    "empty_response": "a response has no text or no tokens",
    "identical_responses": "chosen and rejected are the same",
    "no_preference": "the row does not say which response is better",
    "too_long": "a sequence has seq_length tokens or more",
}
"""Rows that are well formed but of no use for training."""

REASONS = {**MALFORMED, **UNUSABLE}


class RowDropped(Exception):
    """A row that is not trained on, with the reason it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise KeyError(reason)
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Turn:
    """One message. Roles: user, observation (read), assistant, function (written)."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """A dialogue up to the point where the assistant answers: an odd number of turns, the last one read by it."""

    turns: tuple[Turn, ...]
    system: str = ""


@dataclass(frozen=True)
class PairExample:
    """A prompt and two answers to it."""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PromptExample:
    """A prompt, and texts that belong to it but are not part of it (column name -> text)."""

    prompt: Prompt
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairTokens:
    """Token ids of one pair; `prompt + chosen` and `prompt + rejected` are its two rows.

    `prompt_tail` counts tokens at the end of the prompt that merge with a response and therefore belong to it.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_tail: int = 0
