"""Rows with several rated responses, and with two responses and a signed preference."""

from __future__ import annotations

import re
from typing import Any

from mindspeed_dpo.data.preprocessing.column_mapping import ColumnMapping, as_number
from mindspeed_dpo.data.preprocessing.prompt_handlers import alpaca_prompt, system_text
from mindspeed_dpo.data.preprocessing.responses import make_pair, parse_response
from mindspeed_dpo.data.tokenization.dialogue_parsing import OPENAI_TAGS, make_prompt, read_transcript, read_turns
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, RankedExample, Row, RowDropped, Turns

RANKED_TAGS = {**OPENAI_TAGS, "response_tag": "response", "score_tag": "score", "rank_tag": "rank"}
"""Names of the keys of an object with a response and its rating, beside those of messages."""

_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:\s*", re.DOTALL)


def any_prompt(row: Row, columns: ColumnMapping) -> Prompt:
    """Read a prompt that is a text, a list of messages, or `Human:` / `Assistant:` text that ends with `Assistant:`.

    Raises:
        RowDropped: It has another form.
    """
    value = columns.get(row, "prompt")
    if isinstance(value, list | tuple):
        turns = read_turns(value, columns.tags, "the prompt")
    elif isinstance(value, str) and _TRANSCRIPT.fullmatch(value):
        turns = read_transcript(value.lstrip())[:-1]
    else:
        return alpaca_prompt(row, columns)
    return make_prompt(turns, system_text(row, columns), columns.tools(row))


def read_ranked_responses(row: Row, columns: ColumnMapping) -> RankedExample:
    """Read a prompt and responses with scores or ranks.

    Raises:
        RowDropped: There are fewer than two responses, or not as many ratings.
    """
    prompt = any_prompt(row, columns)
    values = columns.listed(row, "responses") or []
    if len(values) < 2:
        raise RowDropped("no_preference", f"there are {len(values)} responses")
    responses = tuple(_response(value, columns.tags, f"response {n}", prompt) for n, value in enumerate(values, 1))
    return RankedExample(prompt, responses, _scores(row, columns, values))


def _response(value: Any, tags: dict[str, str], what: str, prompt: Prompt) -> Turns:
    inner = value.get(tags["response_tag"], value) if isinstance(value, dict) else value
    return parse_response(inner, tags, what, prompt)


def _scores(row: Row, columns: ColumnMapping, values: list[Any]) -> tuple[float | None, ...]:
    """Return the score of each response; the first of rank 1, 2, 3 has the score -1, -2, -3.

    Raises:
        RowDropped: A rating is not a number, or there are fewer or more than responses.
    """
    for key, sign in (("scores", 1.0), ("ranks", -1.0)):
        ratings = columns.listed(row, key)
        tag = columns.tags[f"{key[:-1]}_tag"]
        if ratings is None and any(isinstance(value, dict) and value.get(tag) is not None for value in values):
            ratings = [value.get(tag) if isinstance(value, dict) else None for value in values]
        if ratings is None:
            continue
        if len(ratings) != len(values):
            raise RowDropped("not_text", f"there are {len(values)} responses and {len(ratings)} {key}")
        numbers = [as_number(rating, key) for rating in ratings]
        return tuple(None if number is None else sign * number for number in numbers)
    raise RowDropped("no_preference", "no response has a score or a rank")


def read_signed_preference(row: Row, columns: ColumnMapping) -> PairExample:
    """Read two responses and a number that is negative if the first is better; the margin is its absolute value.

    Raises:
        RowDropped: There is no preference.
    """
    prompt = any_prompt(row, columns)
    responses = [parse_response(value, columns.tags, "a response", prompt) for value in columns.all(row, "responses")]
    preference = _mean_preference(columns.get(row, "preference"))
    better = int(preference > 0)
    return make_pair(prompt, responses[better], responses[1 - better], margin=abs(preference))


def _mean_preference(value: Any) -> float:
    """Return a preference, or the mean of a list of them, which may be objects with the key `score`."""
    items = value if isinstance(value, list | tuple) else [value]
    scores = [item.get("score") if isinstance(item, dict) else item for item in items]
    numbers = [number for score in scores if (number := as_number(score, "the preference")) is not None]
    if not numbers:
        raise RowDropped("no_preference")
    return sum(numbers) / len(numbers)
