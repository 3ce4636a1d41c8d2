"""Prompt templates: the text and special tokens around each turn.

`template_file` reads them, `template_encoder` converts dialogues to token ids, `tokenizer` applies the end token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SPECIAL_PROMPT_TYPES = ("chat_template", "plain")
"""Prompt types without a template of this file: the tokenizer's own chat template, and plain text."""


@dataclass(frozen=True)
class Text:
    """A slot of text, tokenized separately; the placeholders `{{content}}` and `{{idx}}` are filled in."""

    pattern: str


@dataclass(frozen=True)
class Token:
    """A slot of one token, given by its name."""

    name: str


@dataclass(frozen=True)
class Special:
    """A slot of the tokenizer's `bos_token` or `eos_token`; empty if the tokenizer has none."""

    name: str


Slot = Text | Token | Special
CONTENT_SLOTS: tuple[Slot, ...] = (Text("{{content}}"),)


@dataclass(frozen=True)
class Template:
    """A chat template in the format of MindSpeed-LLM.

    Attributes:
        name: Value of `prompt_type`.
        user: Slots of a user turn, up to and including the header of the response.
        assistant: Slots of a response, including its end.
        system: Slots of the system text.
        observation: Slots of the output of a tool.
        separator: Slots before every input turn except the first.
        prefix: Slots at the start of the sequence.
        default_system: System text of rows without one.
        stop_words: Texts that end a turn.
        thought_words: Opening and closing text of a thought; matched without surrounding whitespace.
        efficient_eos: Whether there is one end token at the end of the sequence instead of one after each response.
        replace_eos: Whether the first stop word replaces the tokenizer's end token.
        reasoning: Whether `enable_thinking` applies.
        system_in_user: Whether the system text is part of the first user turn.
    """

    name: str
    user: tuple[Slot, ...] = CONTENT_SLOTS
    assistant: tuple[Slot, ...] = (*CONTENT_SLOTS, Special("eos_token"))
    system: tuple[Slot, ...] = CONTENT_SLOTS
    observation: tuple[Slot, ...] = CONTENT_SLOTS
    separator: tuple[Slot, ...] = ()
    prefix: tuple[Slot, ...] = ()
    default_system: str = ""
    stop_words: tuple[str, ...] = ()
    thought_words: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    efficient_eos: bool = False
    replace_eos: bool = False
    reasoning: bool = False
    system_in_user: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of everything that determines the token ids."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:32]

    @property
    def ends_with_eos(self) -> bool:
        """Whether a response ends with a token or text that stops generation."""
        last = self.assistant[-1] if self.assistant else None
        ends_in_text = isinstance(last, Text) and not last.pattern.endswith("{{content}}")
        return self.efficient_eos or isinstance(last, Special | Token) or ends_in_text
