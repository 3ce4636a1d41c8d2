"""ThoughtMarkers of reasoning templates: where they are kept, removed, or written down as empty.

The rule is settled once for a pair, from both answers, so that its two rows always share one prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ThoughtMarkers:
    """What encloses a thought. `opening + closing` is an empty thought."""

    opening: str
    closing: str

    @property
    def empty(self) -> str:
        """An empty thought, as text."""
        return self.opening + self.closing

    def within(self, text: str) -> bool:
        """Whether a text holds a thought, or half of one."""
        return self.opening.strip() in text or self.closing.strip() in text

    def removed_from(self, text: str) -> str:
        """The text without its thoughts and without the newlines that then lead it."""
        opening, closing = re.escape(self.opening.strip()), re.escape(self.closing.strip())
        return re.sub(f"{opening}.*?{closing}", "", text, flags=re.DOTALL).lstrip("\n")


@dataclass(frozen=True)
class ThoughtRule:
    """What to do with the thoughts of one row.

    Attributes:
        empty_in_prompt: An empty thought ends the prompt, so that it is not trained.
        strip: ThoughtMarkers are removed from the answers.
    """

    empty_in_prompt: bool
    strip: bool

    @classmethod
    def settle(cls, enable_thinking: bool | None, any_answer_thinks: bool) -> ThoughtRule:
        """The rule for a row.

        `enable_thinking` true: kept, and an empty thought is trained where there is none. False: removed, and an empty
        thought ends the prompt. None: as true if any answer of the row thinks, else as false.
        """
        thinks = any_answer_thinks if enable_thinking is None else enable_thinking
        return cls(empty_in_prompt=not thinks, strip=enable_thinking is False)
