"""Thoughts in reasoning templates: whether they are preserved, removed, or replaced by an empty thought.

The rule is resolved once per pair, from both responses, so that its two sequences have the same prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ThoughtMarkers:
    """The texts that open and close a thought."""

    opening: str
    closing: str

    @property
    def empty(self) -> str:
        """Text of an empty thought."""
        return self.opening + self.closing

    def occur_in(self, text: str) -> bool:
        """Whether a text contains the opening or the closing of a thought."""
        return self.opening.strip() in text or self.closing.strip() in text

    def remove_from(self, text: str) -> str:
        """Return the text without its thoughts and without leading newlines."""
        opening, closing = re.escape(self.opening.strip()), re.escape(self.closing.strip())
        return re.sub(f"{opening}.*?{closing}", "", text, flags=re.DOTALL).lstrip("\n")


@dataclass(frozen=True)
class ThoughtRule:
    """The treatment of thoughts in one row.

    Attributes:
        empty_in_prompt: Whether an empty thought is appended to the prompt, so that it is not trained.
        strip: Whether thoughts are removed from the responses.
    """

    empty_in_prompt: bool
    strip: bool

    @classmethod
    def resolve(cls, enable_thinking: bool | None, any_response_thinks: bool) -> ThoughtRule:
        """Return the rule for a row.

        True: thoughts are preserved, and an empty thought is trained in responses without one. False: thoughts are
        removed, and an empty thought ends the prompt. None: thoughts are preserved if any
        response of the row has one; otherwise an empty thought ends the prompt.
        """
        thinks = any_response_thinks if enable_thinking is None else enable_thinking
        return cls(empty_in_prompt=not thinks, strip=enable_thinking is False)
