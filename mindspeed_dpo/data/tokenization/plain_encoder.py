"""The encoder of plain text, without roles or special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mindspeed_dpo.data.tokenization.examples import (
    PairExample,
    PairTokens,
    Prompt,
    RankedTokens,
    RowDropped,
    Turn,
    Turns,
)
from mindspeed_dpo.data.tokenization.prompt_boundary import split_at_divergence
from mindspeed_dpo.data.tokenization.tokenizer import settings_fingerprint, text_ids, with_padding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_TOOLS = "prompt_type plain has no form for tools; use chat_template"


class PlainEncoder:
    """Encoder of plain text without special tokens, except for an end token after each response."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use `tokenizer` without its chat template.

        Raises:
            ValueError: The tokenizer has no end token.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError("prompt_type plain appends the end token to each response, but the tokenizer has none")
        self.tokenizer = with_padding(tokenizer)

    @property
    def fingerprint(self) -> str:
        """Hash of the end token."""
        return settings_fingerprint("plain", self.tokenizer.eos_token_id)

    @property
    def note(self) -> str | None:
        """Always None: this prompt type needs no warning."""
        return None

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair, as `responses` does."""
        return self.responses(example.prompt, example.responses).pair()

    def responses(self, prompt: Prompt, responses: Sequence[Turns]) -> RankedTokens:
        """Tokenize a prompt with two or more responses.

        Raises:
            RowDropped: The prompt has a system text, tools or several turns, or a response has a thought of its own.
        """
        if any(len(response) > 1 for response in responses):
            raise RowDropped("not_plain", "a response has several messages; use chat_template or a named template")
        text = self._text(prompt)
        sequences = [self._with_end_token(self._ids(text + self.reference(response))) for (response,) in responses]
        return split_at_divergence(self._ids(text), sequences)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt.

        Raises:
            RowDropped: The prompt has a system text or several turns.
        """
        return self._ids(self._text(prompt))

    def reference(self, response: Turn) -> str:
        """Return the text of a reference response.

        Raises:
            RowDropped: It has a thought of its own.
        """
        if response.tool_calls:
            raise RowDropped("tools", _NO_TOOLS)
        if response.thought:
            raise RowDropped("unsupported_field", "a response has a thought, which prompt_type plain does not support")
        return response.content

    def _text(self, prompt: Prompt) -> str:
        if prompt.uses_tools:
            raise RowDropped("tools", _NO_TOOLS)
        if prompt.system or len(prompt.turns) > 1:
            raise RowDropped("not_plain", "use chat_template or a named template for dialogues and system texts")
        return prompt.turns[0].content

    def _ids(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text)

    def _with_end_token(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]
