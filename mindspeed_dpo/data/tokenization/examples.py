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
    "tools": "tools, tool calls or their results, which are malformed or which the prompt type does not represent",
    "media": "images, audio or video, which are not supported",
    "unsupported_field": "a field of a message that the prompt type does not represent",
    "not_plain": "a system text or several turns, which prompt_type plain does not support",
    "refused_by_template": "the tokenizer's chat template rejects the dialogue",
    "changed_by_response": "the chat template renders the prompt differently once a response follows",
    "changed_by_later_turn": "a text of the assistant that is scored is lost once other messages follow",
    "unpaired": "a single response with a label, as for KTO; pairs have a chosen and a rejected response",
}
"""Reasons for rows without the format of the handler; the run fails if too many rows are malformed."""

UNUSABLE = {
    "empty_prompt": "the prompt has no text or no tokens",
    "empty_response": "a response has no text or no tokens",
    "identical_responses": "chosen and rejected are the same",
    "no_preference": "the row does not mark the better response",
    "tie": "the two responses are rated equally",
    "small_margin": "the scores of the two responses differ by less than min_score_margin",
    "filtered": "the row is excluded by row_filter",
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
class ToolCall:
    """A call of a tool that the assistant writes.

    Example:
        ToolCall("get_weather", '{"city": "Paris"}')

    Attributes:
        name: Name of the tool.
        arguments: JSON text of an object.
        id: Identifier that its result refers to; may be empty.
    """

    name: str
    arguments: str = "{}"
    id: str = ""


@dataclass(frozen=True)
class Turn:
    """One message; its role is user or observation (inputs), assistant (outputs), or system.

    Attributes:
        role: One of these roles; an observation is the result of a tool.
        content: Its text.
        thought: Text of a thought that the data holds in a field of its own, apart from the content.
        tool_calls: Calls of tools that the assistant writes after the content.
        name: Name of the tool of an observation; may be empty.
        tool_call_id: Identifier of the call of an observation; may be empty.
    """

    role: str
    content: str
    thought: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    tool_call_id: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it has neither text nor calls; a thought alone is no text."""
        return not (self.content.strip() or self.tool_calls)


Turns = tuple[Turn, ...]


@dataclass(frozen=True)
class Prompt:
    """A dialogue up to a response of the assistant, which ends with an input.

    Example:
        Prompt((Turn("user", "2 + 2?"), Turn("assistant", "4"), Turn("user", "3 + 3?")), system="Be brief.")

    Attributes:
        turns: The messages without the system text. Inputs and outputs alternate, but several results of tools may
            follow each other.
        system: The system text.
        tools: JSON text of the list of tools, in the form of OpenAI; empty for none.
    """

    turns: Turns
    system: str = ""
    tools: str = ""

    @property
    def uses_tools(self) -> bool:
        """Whether tools are defined or called."""
        return bool(self.tools) or any(turn.tool_calls for turn in self.turns)


@dataclass(frozen=True)
class PairExample:
    """A prompt with two responses, which differ in their first message.

    Example:
        PairExample(prompt, (Turn("assistant", "4"),), (Turn("assistant", "5"),), scores=(9.0, 2.5))

    Attributes:
        prompt: All messages that both dialogues have in common.
        chosen: Messages of the chosen response: the first and the last are the assistant's.
        rejected: Messages of the rejected response, likewise.
        scores: Scores of both responses, None where the data has none.
        margin: By how much the chosen response is better, None where the data does not say.
    """

    prompt: Prompt
    chosen: Turns
    rejected: Turns
    scores: tuple[float, float] | None = None
    margin: float | None = None

    @classmethod
    def of_texts(
        cls, prompt: Prompt, chosen: str, rejected: str, chosen_thought: str = "", rejected_thought: str = ""
    ) -> PairExample:
        """Make a pair of responses of one message each."""
        return cls(
            prompt, (Turn("assistant", chosen, chosen_thought),), (Turn("assistant", rejected, rejected_thought),)
        )

    @property
    def responses(self) -> tuple[Turns, Turns]:
        """The messages of the chosen and of the rejected response."""
        return self.chosen, self.rejected


@dataclass(frozen=True)
class RankedExample:
    """A prompt with several responses and their scores, of which pairs or a ranking are made.

    Example:
        RankedExample(prompt, ((Turn("assistant", "4"),), (Turn("assistant", "5"),)), scores=(9.0, None))

    Attributes:
        prompt: The prompt.
        responses: Messages of each response.
        scores: Score of each response, higher is better; None for a response without one.
    """

    prompt: Prompt
    responses: tuple[Turns, ...]
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class PromptExample:
    """A prompt and a reference response to it, which is empty where the data has none.

    Example:
        PromptExample(Prompt((Turn("user", "2 + 2?"),)), reference=Turn("assistant", "4"))
    """

    prompt: Prompt
    reference: Turn = Turn("assistant", "")


@dataclass(frozen=True)
class RankedTokens:
    """Token ids of a prompt with K responses, whose sequences are the prompt with each of them.

    Example:
        RankedTokens(prompt=[5, 6], responses=[[7, 2], [8, 9, 2], [4, 2]], scored=[None, None, None])

    Attributes:
        prompt: Token ids of the prompt.
        responses: Token ids of each response.
        scored: Which tokens of each response the assistant wrote, the first one included; None for all.
        prompt_tail: Number of tokens at the end of the prompt that merge with a response and are counted as part of it.
        is_prompt_changed: Whether the messages of the prompt are rendered differently once a response follows.
        is_turn_changed: Whether a scored message is rendered differently once others follow, without loss of its text.
    """

    prompt: list[int]
    responses: list[list[int]]
    scored: list[list[bool] | None]
    prompt_tail: int = 0
    is_prompt_changed: bool = False
    is_turn_changed: bool = False

    def pair(self) -> PairTokens:
        """Return those of two responses as a pair."""
        (chosen, rejected), (chosen_scored, rejected_scored) = self.responses, self.scored
        return PairTokens(
            *(self.prompt, chosen, rejected, self.prompt_tail, self.is_prompt_changed),
            *(chosen_scored, rejected_scored, self.is_turn_changed),
        )


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
        chosen_scored: Which tokens of the chosen response the assistant wrote, the first one included; None for all.
        rejected_scored: Likewise for the rejected response.
        is_turn_changed: Whether a scored message is rendered differently once others follow, without loss of its text.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    prompt_tail: int = 0
    is_prompt_changed: bool = False
    chosen_scored: list[bool] | None = None
    rejected_scored: list[bool] | None = None
    is_turn_changed: bool = False
