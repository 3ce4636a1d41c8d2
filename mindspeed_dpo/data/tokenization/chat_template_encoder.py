"""The encoder that uses the tokenizer's own chat template, for the prompt alone and with each response.

`assistant_spans` finds what is scored of a response of several messages, `tool_rendering` how tools are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mindspeed_dpo.data.tokenization.assistant_spans import RenderTurns, Span, SpanFinder
from mindspeed_dpo.data.tokenization.chat_rendering import render_dialogue
from mindspeed_dpo.data.tokenization.examples import (
    PairExample,
    PairTokens,
    Prompt,
    RankedTokens,
    RowDropped,
    Turn,
    Turns,
)
from mindspeed_dpo.data.tokenization.message_fields import THOUGHT_FIELDS
from mindspeed_dpo.data.tokenization.prompt_boundary import common_length, split_at_divergence
from mindspeed_dpo.data.tokenization.scored_tokens import scored_response
from mindspeed_dpo.data.tokenization.tokenizer import settings_fingerprint, text_ids, with_padding
from mindspeed_dpo.data.tokenization.tool_rendering import ToolRendering
from mindspeed_dpo.data.tokenization.turn_ends import TurnEnds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


RESPONSE_ENDS = ("template", "end_token")
"""What of the text after a message of the assistant is scored: all that the template writes, or one token."""
_SAMPLE_THOUGHT = "sample-thought"


class ChatTemplateEncoder:
    """Encoder with the tokenizer's own chat template.

    Nothing is appended: the template defines how a response ends.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        enable_thinking: bool | None = None,
        *,
        mask_history: bool = True,
        response_end: str = "template",
    ) -> None:
        """Use the chat template of `tokenizer`.

        Args:
            tokenizer: Tokenizer with a chat template.
            enable_thinking: Passed to the template unless it is None.
            mask_history: Score only the messages of the responses; false scores all of the assistant.
            response_end: One of `RESPONSE_ENDS`.

        Raises:
            ValueError: The tokenizer has no chat template.
        """
        if not tokenizer.chat_template:
            raise ValueError("prompt_type chat_template: the tokenizer has no chat template; choose a named template")
        self.tokenizer = with_padding(tokenizer)
        self._options = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self._mask_history = mask_history
        self._only_token = response_end == "end_token"
        self._tools = ToolRendering(self._render_messages)

    @property
    def fingerprint(self) -> str:
        """Hash of the chat template and its options."""
        scoring: dict[str, Any] = {"mask_history": False} if not self._mask_history else {}
        scoring |= {"response_end": "end_token"} if self._only_token else {}
        parts = ("chat_template", self.tokenizer.chat_template, self._options)
        return settings_fingerprint(*parts, *([scoring] if scoring else []))

    @property
    def note(self) -> str | None:
        """Warning if the template writes no end token after a response, or None."""
        if self._ends.last_token:
            return None
        return (
            "prompt_type chat_template: the chat template writes no end token after a response, so the model does not "
            "learn to stop; choose a named template if there is one for this model"
        )

    @cached_property
    def _ends(self) -> TurnEnds:
        tokenizer = self.tokenizer
        special = frozenset((*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder))
        return TurnEnds.probe(self._renderer(), self._ids, special)

    def pair(self, example: PairExample) -> PairTokens:
        """Tokenize a pair, as `responses` does."""
        return self.responses(example.prompt, example.responses).pair()

    def responses(self, prompt: Prompt, responses: Sequence[Turns]) -> RankedTokens:
        """Tokenize a prompt with two or more responses.

        Raises:
            RowDropped: The chat template rejects the dialogue, or does not render a thought or a tool.
        """
        render = self._renderer(prompt.tools)
        turns = _turns(prompt)
        first = len(turns) if self._mask_history else _first_response(turns)
        start = render(turns[:first], True)
        dialogues = [(*turns, *response) for response in responses]
        texts = [render(dialogue) for dialogue in dialogues]
        ids = [self._ids(text) for text in texts]
        tokens = split_at_divergence(self._ids(start), ids)
        tokens = replace(tokens, is_prompt_changed=_is_changed(render, turns[:first], start, texts))
        is_plain = all(len(dialogue) == first + 1 for dialogue in dialogues) and not self._only_token
        if is_plain or tokens.is_prompt_changed:
            return tokens
        finder = SpanFinder(render, self._ends, self._only_token)
        spans = [finder.find_all(dialogue, text, first) for dialogue, text in zip(dialogues, texts, strict=True)]
        return self._masked(tokens, texts, ids, spans)

    def _masked(
        self, tokens: RankedTokens, texts: Sequence[str], ids: Sequence[list[int]], spans: Sequence[Sequence[Span]]
    ) -> RankedTokens:
        """Return responses that are scored in their spans only and end with the last of them."""
        cut = len(tokens.prompt)
        found = [
            scored_response(text, sequence, cut, of_text, self._ids)
            for text, sequence, of_text in zip(texts, ids, spans, strict=True)
        ]
        return replace(
            tokens,
            responses=[response.ids for response in found],
            scored=[response.scored for response in found],
            is_turn_changed=any(response.is_changed for response in found),
        )

    def prompt(self, prompt: Prompt) -> list[int]:
        """Tokenize a prompt, including the header of the response.

        Raises:
            RowDropped: The chat template rejects the dialogue, or does not render a thought or a tool.
        """
        return self._ids(self._renderer(prompt.tools)(_turns(prompt), True))

    def reference(self, response: Turn) -> str:
        """Return the text of a reference response, with its thought and its calls as the chat template renders them.

        Raises:
            RowDropped: The chat template does not render its thought or its calls.
        """
        if not response.thought and not response.tool_calls:
            return response.content
        render = self._renderer()
        question = Turn("user", "Q")
        text = render([question, response])
        start = common_length(text, render([question], True))
        return text[start:].removesuffix(self._ends.last)

    def _ids(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text)

    def _renderer(self, tools: str = "") -> RenderTurns:
        """Return a function that renders turns with tools, which are JSON text or empty."""
        definitions = self._tools.tools(tools)

        def render(turns: Sequence[Turn], add_generation_prompt: bool = False) -> str:
            return self._render_messages(list(map(self._message, turns)), definitions, add_generation_prompt)

        return render

    def _render_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        return render_dialogue(
            self.tokenizer, messages, self._options, add_generation_prompt=add_generation_prompt, tools=tools
        )

    @cached_property
    def _thought_field(self) -> str | None:
        """The field of a message from which the template renders a thought."""
        return next(filter(self._renders_thought, THOUGHT_FIELDS), None)

    def _renders_thought(self, field: str) -> bool:
        """Return whether the template renders a field, which its mere name in the template does not show."""
        response = {"role": "assistant", "content": "A", field: _SAMPLE_THOUGHT}
        try:
            text = self._render_messages([{"role": "user", "content": "Q"}, response])
        except RowDropped:
            return False
        return _SAMPLE_THOUGHT in text

    def _message(self, turn: Turn) -> dict[str, Any]:
        """Write a turn as a message that the chat template takes.

        Raises:
            RowDropped: It does not render a thought or a tool of it.
        """
        message = self._tools.message(turn)
        if not turn.thought:
            return message
        if self._thought_field is None:
            fields = ", ".join(THOUGHT_FIELDS)
            raise RowDropped("unsupported_field", f"a message has a thought; the chat template reads none of {fields}")
        return {**message, self._thought_field: turn.thought}


def _turns(prompt: Prompt) -> list[Turn]:
    return [*([Turn("system", prompt.system)] if prompt.system else []), *prompt.turns]


def _first_response(turns: Sequence[Turn]) -> int:
    """Return the position of the first message of the assistant, the number of turns if there is none."""
    return next((position for position, turn in enumerate(turns) if turn.role == "assistant"), len(turns))


def _is_changed(render: RenderTurns, turns: Sequence[Turn], prompt: str, texts: Sequence[str]) -> bool:
    """Return whether the messages of a prompt differ in the texts of its responses.

    Only the header that a prompt ends with may differ, such as in the start of a thought.

    Raises:
        RowDropped: Rendered again, the prompt differs itself.
    """
    if all(text.startswith(prompt) for text in texts):
        return False
    if render(turns, True) != prompt:
        raise RowDropped("changed_by_response", "the chat template renders the same messages differently each time")
    messages = prompt[: common_length(prompt, render(turns))]
    return not all(text.startswith(messages) for text in texts)
