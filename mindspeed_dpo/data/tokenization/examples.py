"""Examples, the intermediate form between raw rows and token ids, and the reasons for which rows are dropped.

Handlers create examples from columns, and encoders tokenize them. Both drop a row by raising `RowDropped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""One raw row: column name -> value."""

MALFORMED = {
    "unreadable": "the row is not valid JSON or UTF-8, or its columns are not those of the header",
    "not_unicode": "a text contains half of a surrogate pair, which is not a character",
    "missing_column": "a column of map_keys is missing from the row",
    "not_text": "a value does not have the expected type",
    "bad_turns": "turns do not alternate, or the last one has an unexpected role",
    "unknown_role": "a role is not among the tags",
    "no_common_prompt": "chosen and rejected do not continue the same prompt",
    "tools": "tools, tool calls or their results, which are not supported",
    "media": "images, audio or video, which are not supported",
    "unsupported_field": "a field of a message that the prompt type does not represent",
    "not_plain": "a system text or earlier turns, which prompt_type plain does not support",
    "refused_by_template": "the tokenizer's chat template rejects the dialogue",
    "changed_by_response": "the chat template renders the prompt differently once a response follows",
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
        """Name the reason.

        Raises:
            KeyError: The reason is not a key of `REASONS`.
        """
        if reason not in REASONS:
            raise KeyError(reason)
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Turn:
    """One message; its role is user or observation (inputs), assistant or function (outputs), or system.

    Attributes:
        role: One of these roles.
        content: Its text.
        thought: Text of a thought that the data holds in a field of its own, apart from the content.
    """

    role: str
    content: str
    thought: str = ""


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
    """A prompt with two responses, each with the thought that the data holds in a field of its own.

    Example:
        PairExample(Prompt((Turn("user", "2 + 2?"),)), chosen="4", rejected="5")
    """

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_thought: str = ""
    rejected_thought: str = ""

    @property
    def responses(self) -> tuple[Turn, Turn]:
        """The chosen and the rejected response as turns."""
        return (
            Turn("assistant", self.chosen, self.chosen_thought),
            Turn("assistant", self.rejected, self.rejected_thought),
        )


@dataclass(frozen=True)
class PromptExample:
    """A prompt and a reference response to it, which is empty where the data has none.

    Example:
        PromptExample(Prompt((Turn("user", "2 + 2?"),)), reference=Turn("assistant", "4"))
    """

    prompt: Prompt
    reference: Turn = Turn("assistant", "")


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
        is_prompt_changed: Whether the messages of the prompt are rendered differently once a response follows.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_tail: int = 0
    is_prompt_changed: bool = False
