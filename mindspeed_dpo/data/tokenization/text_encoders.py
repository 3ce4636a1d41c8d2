"""Encoders without a template file: the tokenizer's own chat template, and plain text.

Both tokenize the prompt alone and with each response. Responses start at the first position at which the ids of either
sequence differ from those of the prompt, so both sequences of a pair have exactly the same prompt ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from mindspeed_dpo.data.indexed.hashing import digest
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RowDropped
from mindspeed_dpo.data.tokenization.message_parsing import write_messages
from mindspeed_dpo.data.tokenization.tokenizer import with_padding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplateEncoder:
    """Encoder with the tokenizer's own chat template.

    Nothing is appended: the template defines how a response ends.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None) -> None:
        """Use the chat template of `tokenizer`; `enable_thinking` is passed to it unless it is None.

        Raises:
            ValueError: The tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ValueError("prompt_type chat_template: the tokenizer has no chat template; choose a named template")
        self.tokenizer = with_padding(tokenizer)
        self._options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}

    @property
    def fingerprint(self) -> str:
        """Hash of the chat template and its options."""
        return digest("chat_template", self.tokenizer.chat_template, self._options)

    @property
    def note(self) -> str | None:
        """Always None: this prompt type needs no warning."""
        return None

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair.

        Raises:
            RowDropped: The chat template rejects the dialogue.
        """
        messages = write_messages(example.prompt)
        chosen, rejected = (
            self._ids([*messages, {"role": "assistant", "content": response}])
            for response in (example.chosen, example.rejected)
        )
        return _split_at_divergence(self.prompt(example.prompt), chosen, rejected)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, including the header of the response.

        Raises:
            RowDropped: The chat template rejects the dialogue.
        """
        return self._ids(write_messages(prompt), add_generation_prompt=True)

    def _ids(self, messages: list[dict[str, str]], add_generation_prompt: bool = False) -> list[int]:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **self._options
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise RowDropped("refused_by_template", str(error)) from error
        return list(self.tokenizer.encode(text, add_special_tokens=False))


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
        return digest("plain", self.tokenizer.eos_token_id)

    @property
    def note(self) -> str | None:
        """Always None: this prompt type needs no warning."""
        return None

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair.

        Raises:
            RowDropped: The prompt has a system text or several turns.
        """
        prompt = self._text(example.prompt)
        chosen, rejected = (
            self._with_end_token(self._ids(prompt + text)) for text in (example.chosen, example.rejected)
        )
        return _split_at_divergence(self._ids(prompt), chosen, rejected)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt.

        Raises:
            RowDropped: The prompt has a system text or several turns.
        """
        return self._ids(self._text(prompt))

    def _text(self, prompt: Prompt) -> str:
        if prompt.system or len(prompt.turns) > 1:
            raise RowDropped("not_plain", "use chat_template or a named template for dialogues and system texts")
        return prompt.turns[0].content

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _with_end_token(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]


def _split_at_divergence(prompt: list[int], chosen: list[int], rejected: list[int]) -> PairTokens:
    """Split both sequences where either first differs from the prompt; later prompt tokens belong to the responses."""
    cut = min(_common_length(prompt, chosen), _common_length(prompt, rejected))
    return PairTokens(chosen[:cut], chosen[cut:], rejected[cut:], prompt_tail=len(prompt) - cut)


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))
