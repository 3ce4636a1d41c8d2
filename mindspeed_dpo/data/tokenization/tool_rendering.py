"""Determines the form in which a chat template takes calls of tools, by rendering samples: templates do not say it.

Templates differ in whether they print arguments as an object or as JSON text, and some drop the calls of a message that
has a content. A form counts only if the sample is found in the rendered text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from mindspeed_dpo.data.tokenization.dialogue_parsing import write_message
from mindspeed_dpo.data.tokenization.examples import RowDropped, ToolCall, Turn

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message], list[dict[str, Any]] | None], str]

_NAME, _KEY, _VALUE, _RESULT = "sample_tool", "sample_key", "sample value", "sample result"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A sample.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A sample."}}},
    },
}
# Some templates demand an identifier of nine characters.
_CALL = ToolCall(_NAME, json.dumps({_KEY: _VALUE}), id="call12345")
_WRONG_QUOTES = (f"'{_KEY}'", f'\\"{_KEY}')
"""The key as in a Python object that is printed, and as in JSON text that is written as JSON once more."""
_QUESTION = {"role": "user", "content": "Q"}


@dataclass(frozen=True)
class CallForm:
    """The form in which a chat template takes a message with calls.

    Attributes:
        arguments_as_text: Whether arguments are JSON text rather than an object.
        null_content: Whether an empty content is null.
    """

    arguments_as_text: bool
    null_content: bool

    def message(self, turn: Turn) -> dict[str, Any]:
        """Write a message with calls."""
        message = write_message(turn)
        if self.null_content and not turn.content:
            message["content"] = None
        if not self.arguments_as_text:
            for call in message["tool_calls"]:
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        return message


_FORMS = [CallForm(as_text, null) for null in (False, True) for as_text in (False, True)]


class ToolRendering:
    """The forms in which one chat template takes tools, each probed when it is first needed."""

    def __init__(self, render: Render) -> None:
        """Probe with `render`, which returns the text of messages with or without tools, or raises `RowDropped`."""
        self._render = render
        self._form = cache(self._probe_form)
        self._takes_tools = cache(self._probe_tools)
        self._takes_results = cache(self._probe_results)

    def tools(self, text: str) -> list[dict[str, Any]] | None:
        """Return definitions of tools, JSON text or empty, as the chat template takes them.

        Raises:
            RowDropped: It does not render them.
        """
        if not text:
            return None
        if not self._takes_tools():
            raise RowDropped("tools", "the chat template does not render definitions of tools")
        tools: list[dict[str, Any]] = json.loads(text)
        return tools

    def message(self, turn: Turn) -> dict[str, Any]:
        """Write a message as the chat template takes it.

        Raises:
            RowDropped: It does not render its calls or its result.
        """
        if turn.role == "observation" and not self._takes_results():
            raise RowDropped("tools", "the chat template does not render results of tools")
        if not turn.tool_calls:
            return write_message(turn)
        form = self._form(bool(turn.content))
        if form is None:
            beside = " beside a content" if turn.content else ""
            raise RowDropped("tools", f"the chat template does not render calls of tools{beside}")
        return form.message(turn)

    def _probe_tools(self) -> bool:
        return self._finds((_NAME, _KEY), [_QUESTION], [_TOOL])

    def _probe_form(self, has_content: bool) -> CallForm | None:
        """Return the first form of which name, keys and values are rendered, without escapes and Python's quotes."""
        turn = Turn("assistant", "A" if has_content else "", tool_calls=(_CALL,))
        for form in _FORMS:
            messages = [_QUESTION, form.message(turn)]
            is_complete = self._finds((_NAME, _KEY, _VALUE), messages)
            if is_complete and not any(self._finds((quoted,), messages) for quoted in _WRONG_QUOTES):
                return form
        return None

    def _probe_results(self) -> bool:
        form = self._form(False)
        call = (
            form.message(Turn("assistant", "", tool_calls=(_CALL,))) if form else {"role": "assistant", "content": "A"}
        )
        result = write_message(Turn("observation", _RESULT, name=_NAME, tool_call_id=_CALL.id))
        return self._finds((_RESULT,), [_QUESTION, call, result])

    def _finds(
        self, texts: Sequence[str], messages: Sequence[Message], tools: list[dict[str, Any]] | None = None
    ) -> bool:
        try:
            rendered = self._render(messages, tools)
        except RowDropped:
            return False
        return all(text in rendered for text in texts)
