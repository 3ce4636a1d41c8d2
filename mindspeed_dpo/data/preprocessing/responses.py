"""Responses of raw rows as messages, and the message at which the dialogues of a pair branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspeed_dpo.data.tokenization.dialogue_parsing import check_turns
from mindspeed_dpo.data.tokenization.examples import PairExample, Prompt, RowDropped, Turn, Turns
from mindspeed_dpo.data.tokenization.message_fields import check_weight, read_turn


def parse_response(value: Any, tags: dict[str, str], what: str, prompt: Prompt) -> Turns:
    """Return the messages of a response.

    Args:
        value: A text, a message, a list of texts of which the first counts, or a list of messages, which may begin with
            the last messages of the prompt.
        tags: Names of keys and roles of messages.
        what: Name of the response, for messages.
        prompt: The prompt that it follows.

    Raises:
        RowDropped: The response has another form, or its messages do not follow the prompt.
    """
    if value is None or value in ([], ()):
        return (Turn("assistant", ""),)
    if isinstance(value, list | tuple) and isinstance(value[0], str):
        value = value[0]
    messages = value if isinstance(value, list | tuple) else [value]
    turns = [read_turn(message, tags, default_role="assistant") for message in messages]
    if turns[-1].role != "assistant":
        raise RowDropped("bad_turns", f"{what} has the role {turns[-1].role}, expected assistant")
    start = _overlap(turns, prompt)
    if turns[start].role != "assistant":
        raise RowDropped("no_common_prompt", f"{what} has messages before its response that are not in the prompt")
    check_turns(turns[start:], previous=prompt.turns[-1])
    check_weights(messages[start:], turns[start:])
    return tuple(turns[start:])


def _overlap(turns: Sequence[Turn], prompt: Prompt) -> int:
    """Return the number of messages at the start of a response that are the end of its prompt, at most all but one."""
    context = [*([Turn("system", prompt.system)] if prompt.system else []), *prompt.turns]
    counts = range(min(len(turns) - 1, len(context)), 0, -1)
    return next((count for count in counts if list(turns[:count]) == context[-count:]), 0)


def check_weights(messages: Sequence[Any], turns: Sequence[Turn]) -> None:
    """Check that no message of the assistant is excluded from training by its weight.

    Raises:
        RowDropped: One is.
    """
    for message, turn in zip(messages, turns, strict=True):
        if turn.role == "assistant":
            check_weight(message)


def common_start(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> int:
    """Return the number of messages at the start that two dialogues have in common, at most all but the last of each.

    Raises:
        RowDropped: They do not differ first in a message of the assistant.
    """
    limit = min(len(chosen), len(rejected)) - 1
    count = next((position for position in range(limit) if chosen[position] != rejected[position]), limit)
    first = (chosen[count], rejected[count])
    if first[0] == first[1] and list(chosen) != list(rejected):
        raise RowDropped("no_common_prompt", "one response only has messages that the other has, too")
    if any(turn.role != "assistant" for turn in first):
        roles = " and ".join(turn.role for turn in first)
        raise RowDropped(
            "no_common_prompt",
            f"chosen and rejected differ before the assistant does, in message {count + 1} with the role {roles}",
        )
    return count


def make_pair(
    prompt: Prompt,
    chosen: Sequence[Turn],
    rejected: Sequence[Turn],
    scores: tuple[float, float] | None = None,
    margin: float | None = None,
) -> PairExample:
    """Make a pair; messages with which both responses start become part of its prompt.

    Raises:
        RowDropped: A response is empty, both are equal, or they do not branch at a message of the assistant.
    """
    for name, response in (("chosen", chosen), ("rejected", rejected)):
        if any(turn.is_empty for turn in response if turn.role == "assistant"):
            raise RowDropped("empty_response", f"{name} is empty")
    if list(chosen) == list(rejected):
        raise RowDropped("identical_responses")
    start = common_start(chosen, rejected)
    prompt = Prompt((*prompt.turns, *chosen[:start]), prompt.system, prompt.tools)
    return PairExample(prompt, tuple(chosen[start:]), tuple(rejected[start:]), scores, margin)
