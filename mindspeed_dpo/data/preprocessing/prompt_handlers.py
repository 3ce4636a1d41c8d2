"""Rows of the Alpaca and ShareGPT styles as prompts, of pairs or of online DPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspeed_dpo.data.indexed.text_columns import json_text
from mindspeed_dpo.data.preprocessing.column_mapping import ColumnMapping
from mindspeed_dpo.data.tokenization.dialogue_parsing import (
    make_prompt,
    read_turns,
    split_response,
)
from mindspeed_dpo.data.tokenization.examples import Prompt, PromptExample, Row, RowDropped, Turn
from mindspeed_dpo.data.tokenization.message_fields import text_or_empty


def alpaca_prompt(row: Row, columns: ColumnMapping) -> Prompt:
    """Read system text, earlier exchanges, instruction and input.

    Raises:
        RowDropped: A column has another type.
    """
    turns: list[Turn] = []
    history = columns.get(row, "history") or ()
    for exchange in history if isinstance(history, list | tuple) else (history,):
        if not isinstance(exchange, list | tuple) or len(exchange) != 2:
            raise RowDropped("bad_turns", "history should be a list of [question, response]")
        turns += [
            Turn("user", text_or_empty(exchange[0], "history")),
            Turn("assistant", text_or_empty(exchange[1], "history")),
        ]
    question = text_or_empty(columns.get(row, "prompt"), "the prompt")
    query = text_or_empty(columns.get(row, "query"), "the query")
    turns.append(Turn("user", f"{question}\n{query}" if query else question))
    return make_prompt(turns, system_text(row, columns), columns.tools(row))


def system_text(row: Row, columns: ColumnMapping) -> str:
    """Return the text of the system column, empty for none.

    Raises:
        RowDropped: It is not a text.
    """
    return text_or_empty(columns.get(row, "system"), "the system text")


def sharegpt_prompt(row: Row, columns: ColumnMapping, turns: Sequence[Turn]) -> Prompt:
    """Return the prompt of messages that were read, with the system text of its column."""
    return make_prompt(turns, system_text(row, columns), columns.tools(row))


def read_alpaca_prompt(row: Row, columns: ColumnMapping) -> PromptExample:
    """Read a prompt; the response, if there is one, becomes the reference."""
    response = columns.get(row, "response")
    if isinstance(response, list | tuple):
        response = response[0] if response else ""
    return PromptExample(alpaca_prompt(row, columns), Turn("assistant", _as_text(response)))


def read_sharegpt_prompt(row: Row, columns: ColumnMapping) -> PromptExample:
    """Read a dialogue; a final response of the assistant becomes the reference and not part of the prompt."""
    turns = read_turns(columns.get(row, "messages"), columns.tags, "the dialogue")
    if turns[-1].role != "assistant":
        return PromptExample(sharegpt_prompt(row, columns, turns))
    prompt_turns, response = split_response(turns, "the dialogue")
    return PromptExample(sharegpt_prompt(row, columns, prompt_turns), response)


def _as_text(value: Any) -> str:
    try:
        return "" if value is None else value if isinstance(value, str) else json_text(value)
    except TypeError as error:
        raise RowDropped("not_text", f"the response: {error}") from error
