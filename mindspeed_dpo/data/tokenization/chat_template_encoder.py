"""The encoder that uses the tokenizer's own chat template, for the prompt alone and with each response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from mindspeed_dpo.data.tokenization.chat_rendering import render_dialogue
from mindspeed_dpo.data.tokenization.dialogue_parsing import write_message
from mindspeed_dpo.data.tokenization.examples import PairExample, PairTokens, Prompt, RowDropped, Turn
from mindspeed_dpo.data.tokenization.message_fields import THOUGHT_FIELDS
from mindspeed_dpo.data.tokenization.prompt_boundary import common_length, split_at_divergence
from mindspeed_dpo.data.tokenization.tokenizer import settings_fingerprint, text_ids, with_padding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_SAMPLE_THOUGHT = "sample-thought"


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
        return settings_fingerprint("chat_template", self.tokenizer.chat_template, self._options)

    @property
    def note(self) -> str | None:
        """Always None: this prompt type needs no warning."""
        return None

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair.

        Raises:
            RowDropped: The chat template rejects the dialogue, or does not render a thought.
        """
        turns = _turns(example.prompt)
        prompt = self._render(turns, add_generation_prompt=True)
        texts = [self._render([*turns, response]) for response in example.responses]
        tokens = split_at_divergence(*(text_ids(self.tokenizer, text) for text in (prompt, *texts)))
        return replace(tokens, is_prompt_changed=self._is_changed(turns, prompt, texts))

    def _is_changed(self, turns: Sequence[Turn], prompt: str, texts: Sequence[str]) -> bool:
        """Return whether the messages of a prompt differ in the texts of its responses.

        Only the header that a prompt ends with may differ, such as in the start of a thought.
        """
        if all(text.startswith(prompt) for text in texts):
            return False
        messages = prompt[: common_length(prompt, self._render(turns))]
        return not all(text.startswith(messages) for text in texts)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, including the header of the response.

        Raises:
            RowDropped: The chat template rejects the dialogue, or does not render a thought.
        """
        return text_ids(self.tokenizer, self._render(_turns(prompt), add_generation_prompt=True))

    def reference(self, response: Turn) -> str:
        """Return the text of a reference response, with its thought as the chat template renders it.

        Raises:
            RowDropped: The chat template does not render its thought.
        """
        if not response.thought:
            return response.content
        question = Turn("user", "Q")
        # Another content shows what the template writes after it.
        other = replace(response, content="B" if response.content.rstrip().endswith("A") else "A")
        text, changed = self._render([question, response]), self._render([question, other])
        start = common_length(text, self._render([question], add_generation_prompt=True))
        return text[start : len(text) - common_length(text[::-1], changed[::-1])]

    def _render(self, turns: Sequence[Turn], add_generation_prompt: bool = False) -> str:
        messages = [self._message(turn) for turn in turns]
        return render_dialogue(self.tokenizer, messages, self._options, add_generation_prompt=add_generation_prompt)

    @cached_property
    def _thought_field(self) -> str | None:
        """The field of a message from which the template renders a thought."""
        return next(filter(self._renders_thought, THOUGHT_FIELDS), None)

    def _renders_thought(self, field: str) -> bool:
        """Return whether the template renders a field, which its mere name in the template does not show."""
        response = {"role": "assistant", "content": "A", field: _SAMPLE_THOUGHT}
        try:
            text = render_dialogue(self.tokenizer, [{"role": "user", "content": "Q"}, response], self._options)
        except RowDropped:
            return False
        return _SAMPLE_THOUGHT in text

    def _message(self, turn: Turn) -> dict[str, str]:
        message = write_message(turn)
        if not turn.thought:
            return message
        if self._thought_field is None:
            fields = ", ".join(THOUGHT_FIELDS)
            raise RowDropped("unsupported_field", f"a message has a thought; the chat template reads none of {fields}")
        return {**message, self._thought_field: turn.thought}


def _turns(prompt: Prompt) -> list[Turn]:
    return [*([Turn("system", prompt.system)] if prompt.system else []), *prompt.turns]
