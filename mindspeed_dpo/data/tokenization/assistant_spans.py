"""Finds the messages of the assistant in a rendered dialogue, so that only what the model writes is scored.

A message starts where the text of the messages before it, with the header of a response, ends, and ends where the text
up to and including it does. A template may write a message differently once others follow, as Qwen3's, which leaves out
thoughts before the last question. Such a message is found by its end. If it lost text, the row is dropped: the model
would be trained on a text that it does not generate there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mindspeed_dpo.data.tokenization.examples import RowDropped, Turn
from mindspeed_dpo.data.tokenization.prompt_boundary import common_length
from mindspeed_dpo.data.tokenization.turn_ends import TurnEnds

_MARKUP = re.compile(r"<[^<>]*>")


class RenderTurns(Protocol):
    """Renders turns with a chat template, with the header of a response if `add_generation_prompt`."""

    def __call__(self, turns: Sequence[Turn], add_generation_prompt: bool = False) -> str:
        """Return the text.

        Raises:
            RowDropped: The template rejects the turns.
        """


@dataclass(frozen=True)
class Span:
    """The part of a rendered dialogue that one message of the assistant is, for example Span(17, 29, False).

    Attributes:
        start: Position of its first character.
        end: Position after its end, as far as it is scored.
        is_changed: Whether it is rendered differently than as the last message.
    """

    start: int
    end: int
    is_changed: bool


class SpanFinder:
    """Finds the messages of the assistant in the dialogues of one chat template."""

    def __init__(self, render: RenderTurns, ends: TurnEnds, only_token: bool) -> None:
        """Prepare the search in dialogues of one chat template.

        Args:
            render: Renders turns.
            ends: What the template writes after messages.
            only_token: Whether of an end only its first special token is scored.
        """
        self._render = render
        self._ends = ends
        self._only_token = only_token

    def find_all(self, turns: Sequence[Turn], text: str, first: int) -> list[Span]:
        """Find the messages of the assistant from the message `first` on.

        Args:
            turns: The dialogue.
            text: Its text.
            first: Number of the first message that is scored.

        Raises:
            RowDropped: The text of one, or that of the messages before it, changes with those that follow.
        """
        positions = range(first, len(turns))
        return [self._find(turns, text, position) for position in positions if turns[position].role == "assistant"]

    def _find(self, turns: Sequence[Turn], text: str, position: int) -> Span:
        start = self._start(turns[:position], text, position)
        is_last = position == len(turns) - 1
        alone = text if is_last else self._render(turns[: position + 1], False)
        body, is_end_known = alone, alone.endswith(self._ends.last)
        if is_end_known:
            body = alone[: len(alone) - len(self._ends.last)]
        scored_end = self._ends.length(is_last, self._only_token) if is_end_known else 0
        if text.startswith(body + ("" if is_last or not is_end_known else self._ends.middle)):
            return Span(start, len(body) + scored_end, False)
        end = self._changed_end(turns[position], text, start, body)
        return Span(start, end + scored_end, True)

    def _start(self, before: Sequence[Turn], text: str, position: int) -> int:
        """Return where a message starts; only the header of a response may differ, such as in an empty thought."""
        prompt = self._render(before, True)
        if text.startswith(prompt):
            return len(prompt)
        start = common_length(prompt, text)
        if start < common_length(prompt, self._render(before, False)):
            raise RowDropped("changed_by_later_turn", f"the text before message {position + 1} differs")
        return start

    def _changed_end(self, turn: Turn, text: str, start: int, body: str) -> int:
        """Return where a message ends whose text differs from that of the message alone."""
        end = text.find(self._ends.middle, start) if self._ends.middle else -1
        if end < 0 or self._ends.middle in turn.content + turn.thought:
            raise RowDropped("changed_by_later_turn", f"the end of a message is not found: {turn.content!r:.80}")
        alone, here = body[min(start, len(body)) :].strip(), text[start:end].strip()
        lost = alone[: len(alone) - len(here)]
        if not alone.endswith(here) or re.search(r"\w", _MARKUP.sub("", lost)):
            raise RowDropped("changed_by_later_turn", f"{alone!r:.80} is rendered as {here!r:.80}")
        return end
