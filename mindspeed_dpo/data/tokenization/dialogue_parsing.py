"""Parses dialogues: lists of messages with configurable names of keys and roles, and `Human:` / `Assistant:` text.

Both are converted to `Turn`s, and prompts back to messages. Handlers select the column with the dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mindspeed_dpo.data.tokenization.examples import Prompt, RowDropped, Turn
from mindspeed_dpo.data.tokenization.message_fields import check_weight, read_turn

SHAREGPT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read_turns(messages: Any, tags: dict[str, str], what: str) -> list[Turn]:
    """Convert a list of messages to turns.

    Raises:
        RowDropped: The value is not a list, is empty, or an item is not a message.
    """
    if not isinstance(messages, list | tuple):
        raise RowDropped("bad_turns", f"{what} should be a list of messages, but is {type(messages).__name__}")
    if not messages:
        raise RowDropped("empty_prompt", f"{what} is an empty list")
    return [read_turn(message, tags) for message in messages]


def make_prompt(turns: Sequence[Turn], system: str = "") -> Prompt:
    """Build a prompt from turns that end with an input to the assistant; a leading system turn is the system text.

    Raises:
        RowDropped: There is no final input, or the roles do not alternate.
    """
    if turns and turns[0].role == "system":
        system, turns = turns[0].content or system, turns[1:]
    if not turns:
        raise RowDropped("empty_prompt", "there is no user turn")
    for position, turn in enumerate(turns):
        expected = "assistant" if position % 2 else "user"
        if turn.role != expected:
            raise RowDropped("bad_turns", f"turn {position + 1} has the role {turn.role}, expected {expected}")
    if len(turns) % 2 == 0:
        raise RowDropped(
            "bad_turns", "the dialogue ends with a turn of the assistant, so there is no response to generate"
        )
    if not turns[-1].content.strip():
        raise RowDropped("empty_prompt", "the last user turn is empty")
    return Prompt(tuple(turns), system)


def write_messages(prompt: Prompt) -> list[dict[str, str]]:
    """Convert a prompt to messages with the keys `role` (system, user, assistant or tool) and `content`."""
    system = [Turn("system", prompt.system)] if prompt.system else []
    return [write_message(turn) for turn in (*system, *prompt.turns)]


def write_message(turn: Turn) -> dict[str, str]:
    """Convert a turn to a message; its thought is not part of the message."""
    return {"role": "tool" if turn.role == "observation" else turn.role, "content": turn.content}


def read_transcript(text: str) -> list[Turn]:
    r"""Parse a dialogue written as `\n\nHuman: …\n\nAssistant: …`.

    Raises:
        RowDropped: The text does not start with a speaker label.
    """
    marks = list(_SPEAKER.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise RowDropped("bad_turns", f"a dialogue should start with Human:, but starts with {text[:40]!r}")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [Turn(roles[mark.group(1)], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]


def split_response(turns: Sequence[Turn], what: str) -> tuple[tuple[Turn, ...], Turn]:
    """Split a dialogue into the turns before the last response, and that response.

    Raises:
        RowDropped: The dialogue does not end with a response.
    """
    if not turns or turns[-1].role != "assistant":
        raise RowDropped("bad_turns", f"{what} does not end with a response of the assistant")
    return tuple(turns[:-1]), turns[-1]


def parse_response(value: Any, tags: dict[str, str], what: str) -> Turn:
    """Return a response given as text, message, list of texts (the first) or list of messages (the last).

    Raises:
        RowDropped: The response has another form, or its role is not assistant.
    """
    if value is None:
        return Turn("assistant", "")
    if isinstance(value, list | tuple):
        if not value:
            return Turn("assistant", "")
        value = value[0] if isinstance(value[0], str) else value[-1]
    turn = read_turn(value, tags, default_role="assistant")
    check_weight(value)
    if turn.role != "assistant":
        raise RowDropped("bad_turns", f"{what} has the role {turn.role}, expected assistant")
    return turn
