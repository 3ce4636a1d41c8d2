"""Rows of each style as preference pairs: Alpaca, ShareGPT, the index of the better response, two dialogues."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.data.preprocessing.column_map import ColumnMapping
from mindspeed_dpo.data.preprocessing.prompt_handlers import alpaca_prompt, sharegpt_prompt
from mindspeed_dpo.data.tokenization.dialogue_parsing import (
    OPENAI_TAGS,
    make_prompt,
    parse_response,
    read_transcript,
    read_turns,
    split_response,
)
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, Row, RowDropped, Turn
from mindspeed_dpo.data.tokenization.message_fields import check_weight, text_or_empty


def _pair(prompt: Prompt, chosen: Turn, rejected: Turn) -> PairExample:
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if not response.content.strip():
            raise RowDropped("empty_response", f"{name} is empty")
    if chosen == rejected:
        raise RowDropped("identical_responses")
    return PairExample(prompt, chosen.content, rejected.content, chosen.thought, rejected.thought)


def _read_pair(row: Row, columns: ColumnMapping, prompt: Prompt) -> PairExample:
    """Read the keys chosen and rejected, which may name one shared column [chosen, rejected]."""
    chosen, rejected = columns.get(row, "chosen"), columns.get(row, "rejected")
    if columns.names["chosen"] == columns.names["rejected"]:
        if not isinstance(chosen, list | tuple) or len(chosen) < 2:
            raise RowDropped("not_text", "a shared column should be a list [chosen, rejected]")
        chosen, rejected = chosen[:2]
    tags = columns.tags or OPENAI_TAGS
    return _pair(prompt, _response(chosen, tags, "chosen", prompt), _response(rejected, tags, "rejected", prompt))


def _response(value: Any, tags: dict[str, str], what: str, prompt: Prompt) -> Turn:
    """Return a response; messages before it, as in a complete dialogue, must be the end of the prompt."""
    response = parse_response(value, tags, what)
    has_earlier = isinstance(value, list | tuple) and len(value) > 1 and not isinstance(value[0], str)
    earlier = read_turns(value[:-1], tags, what) if has_earlier else []
    system = [Turn("system", prompt.system)] if prompt.system else []
    if earlier and earlier != [*system, *prompt.turns][-len(earlier) :]:
        raise RowDropped("no_common_prompt", f"{what} has messages before its response that are not in the prompt")
    return response


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
    responses = [_response(value, OPENAI_TAGS, "a response", prompt) for value in columns.all(row, "responses")]
    better_index = _better_index(columns.get(row, "better"))
    return _pair(prompt, responses[better_index], responses[1 - better_index])


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
    parts = []
    for key in ("chosen", "rejected"):
        value = columns.get(row, key)
        if value is None or value in ("", []):
            raise RowDropped("empty_response", f"{key} is empty")
        turns = read_transcript(value) if isinstance(value, str) else read_turns(value, columns.tags, key)
        parts.append(split_response(turns, key))
        check_weight(value[-1])
    (chosen_prompt, chosen), (rejected_prompt, rejected) = parts
    if chosen_prompt != rejected_prompt:
        raise RowDropped("no_common_prompt", "chosen and rejected differ before their last response")
    return _pair(
        make_prompt(chosen_prompt, text_or_empty(columns.get(row, "system"), "the system text")), chosen, rejected
    )
