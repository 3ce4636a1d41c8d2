"""Rows of each style as preference pairs: Alpaca, ShareGPT, the index of the better response, two dialogues."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.data.preprocessing.column_mapping import ColumnMapping
from mindspeed_dpo.data.preprocessing.prompt_handlers import alpaca_prompt, sharegpt_prompt, system_text
from mindspeed_dpo.data.preprocessing.responses import check_weights, common_start, make_pair, parse_response
from mindspeed_dpo.data.tokenization.dialogue_parsing import (
    OPENAI_TAGS,
    check_turns,
    make_prompt,
    read_transcript,
    read_turns,
    split_response,
)
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, Row, RowDropped, Turn


def _read_pair(row: Row, columns: ColumnMapping, prompt: Prompt) -> PairExample:
    """Read the keys chosen and rejected, which may name one shared column [chosen, rejected]."""
    chosen, rejected = columns.get(row, "chosen"), columns.get(row, "rejected")
    if columns.names["chosen"] == columns.names["rejected"]:
        if not isinstance(chosen, list | tuple) or len(chosen) < 2:
            raise RowDropped("not_text", "a shared column should be a list [chosen, rejected]")
        chosen, rejected = chosen[:2]
    tags = columns.tags or OPENAI_TAGS
    responses = (parse_response(chosen, tags, "chosen", prompt), parse_response(rejected, tags, "rejected", prompt))
    return make_pair(prompt, *responses, *_rating(row, columns))


def _rating(row: Row, columns: ColumnMapping) -> tuple[tuple[float, float] | None, float | None]:
    """Return the scores of both responses and their difference; None where no columns are named.

    Raises:
        RowDropped: A response has no score, or the rejected one has the higher one.
    """
    if columns.names["score_chosen"] is None:
        return None, None
    chosen, rejected = columns.number(row, "score_chosen"), columns.number(row, "score_rejected")
    if chosen is None or rejected is None:
        raise RowDropped("no_preference", "a response has no score")
    if chosen < rejected:
        raise RowDropped("no_preference", f"the rejected response has the higher score, {rejected:g} and {chosen:g}")
    return (chosen, rejected), chosen - rejected


def read_alpaca_pair(row: Row, columns: ColumnMapping) -> PairExample:
    """Read an instruction and two responses."""
    return _read_pair(row, columns, alpaca_prompt(row, columns))


def read_sharegpt_pair(row: Row, columns: ColumnMapping) -> PairExample:
    """Read a list of messages and two responses."""
    turns = read_turns(columns.get(row, "messages"), columns.tags, "the dialogue")
    return _read_pair(row, columns, sharegpt_prompt(row, columns, turns))


def read_better_response(row: Row, columns: ColumnMapping) -> PairExample:
    """Read two responses and the index of the better one."""
    prompt = alpaca_prompt(row, columns)
    responses = [parse_response(value, OPENAI_TAGS, "a response", prompt) for value in columns.all(row, "responses")]
    better_index = _better_index(columns.get(row, "better"))
    return make_pair(prompt, responses[better_index], responses[1 - better_index])


_NO_PREFERENCE = ("", "null", "none", "nan", "-1", "-1.0")
_INDEX_BY_TEXT = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


def _better_index(value: Any) -> int:
    """Return 0 or 1; a column with nulls becomes float in many tools, and in csv files every value is text."""
    text = str(value).strip().lower()
    if text in _NO_PREFERENCE:
        raise RowDropped("no_preference")
    if text not in _INDEX_BY_TEXT:
        raise RowDropped("not_text", f"the better response should be 0 or 1, got {value!r:.80}")
    return _INDEX_BY_TEXT[text]


def read_dialogue_pair(row: Row, columns: ColumnMapping) -> PairExample:
    """Read two dialogues with a common start, as message lists or as `Human:` / `Assistant:` text.

    Raises:
        RowDropped: They have no common start, or one has no response.
    """
    chosen, rejected = (_read_dialogue(row, columns, key) for key in ("chosen", "rejected"))
    start = common_start(chosen, rejected)
    prompt = make_prompt(chosen[:start], system_text(row, columns), columns.tools(row))
    for key, turns in (("chosen", chosen), ("rejected", rejected)):
        check_turns(turns[start:], previous=prompt.turns[-1])
        if not isinstance(row[str(columns.names[key])], str):
            check_weights(row[str(columns.names[key])][start:], turns[start:])
    return make_pair(prompt, chosen[start:], rejected[start:], *_rating(row, columns))


def _read_dialogue(row: Row, columns: ColumnMapping, key: str) -> list[Turn]:
    value = columns.get(row, key)
    if value is None or value in ("", []):
        raise RowDropped("empty_response", f"{key} is empty")
    turns = read_transcript(value) if isinstance(value, str) else read_turns(value, columns.tags, key)
    split_response(turns, key)
    return turns
