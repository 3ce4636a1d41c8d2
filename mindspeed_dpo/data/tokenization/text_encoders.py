"""From dialogues to token ids without a template file: the tokenizer's own chat template, and plain text.

Both tokenise the prompt and the prompt with its answer; the answer starts where the ids part, at the smaller position
of the two answers, so both rows of a pair share their prompt ids exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from mindspeed_dpo.data.indexed.hashing import digest
from mindspeed_dpo.data.tokenization.conversation import write_messages
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RowDropped
from mindspeed_dpo.data.tokenization.tokenizer import with_padding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplateEncoder:
    """The tokenizer's own chat template.

    Nothing is appended: an answer ends with whatever the template ends a turn with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, enable_thinking: bool | None = None) -> None:
        """Use the chat template of `tokenizer`; `enable_thinking` is handed to it unless None.

        Raises:
            ValueError: The tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ValueError("prompt_type chat_template: the tokenizer has no chat template; name a template instead")
        self.tokenizer = with_padding(tokenizer)
        self._options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}

    @property
    def fingerprint(self) -> str:
        """The chat template's text and its options."""
        return digest("chat_template", self.tokenizer.chat_template, self._options)

    @property
    def note(self) -> str | None:
        """Nothing to say."""
        return None

    def pair(self, example: PairExample) -> PairTokens:
        """Ids of a pair."""
        messages = write_messages(example.prompt)
        answered = [
            self._ids([*messages, {"role": "assistant", "content": answer}])
            for answer in (example.chosen, example.rejected)
        ]
        return _split_at_divergence(self.prompt(example.prompt), answered[0], answered[1])

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt with the header of the answer."""
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
    """Text as it is: no bos, no header; an answer without the end token gets it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Use `tokenizer` without its template.

        Raises:
            ValueError: It has no end token to append.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError("prompt_type plain appends the end token to each response, but the tokenizer has none")
        self.tokenizer = with_padding(tokenizer)

    @property
    def fingerprint(self) -> str:
        """The end token is all there is to it."""
        return digest("plain", self.tokenizer.eos_token_id)

    @property
    def note(self) -> str | None:
        """Nothing to say."""
        return None

    def pair(self, example: PairExample) -> PairTokens:
        """Ids of a pair."""
        prompt = self._text(example.prompt)
        chosen, rejected = (self._ended(self._ids(prompt + text)) for text in (example.chosen, example.rejected))
        return _split_at_divergence(self._ids(prompt), chosen, rejected)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt."""
        return self._ids(self._text(prompt))

    def _text(self, prompt: Prompt) -> str:
        if prompt.system or len(prompt.turns) > 1:
            raise RowDropped("not_plain", "use chat_template or a named template for dialogues and system texts")
        return prompt.turns[0].content

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _ended(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if ids and ids[-1] == end else [*ids, end]


def _split_at_divergence(prompt: list[int], chosen: list[int], rejected: list[int]) -> PairTokens:
    """Cut both rows where the first of them leaves the prompt's ids; the rest of the prompt is left to the answers."""
    cut = min(_common_length(prompt, chosen), _common_length(prompt, rejected))
    return PairTokens(chosen[:cut], chosen[cut:], rejected[cut:], prompt_tail=len(prompt) - cut)


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))
