"""Parses dialogues: lists of messages with configurable names of keys and roles, and `Human:` / `Assistant:` text.

Both are converted to `Turn`s, and prompts back to messages. Handlers select the column with the dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mindspeed_dpo.data.tokenization.examples import Prompt, RowDropped, Turn, Turns
from mindspeed_dpo.data.tokenization.message_fields import read_turn

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


def make_prompt(turns: Sequence[Turn], system: str = "", tools: str = "") -> Prompt:
    """Build a prompt from turns that end with an input to the assistant; a leading system turn is the system text.

    Raises:
        RowDropped: There is no final input, or the roles do not alternate.
    """
    if turns and turns[0].role == "system":
        system, turns = turns[0].content or system, turns[1:]
    if not turns:
        raise RowDropped("empty_prompt", "there is no user turn")
    check_turns(turns)
    if turns[-1].role == "assistant":
        raise RowDropped(
            "bad_turns", "the dialogue ends with a turn of the assistant, so there is no response to generate"
        )
    if turns[-1].role == "user" and not turns[-1].content.strip():
        raise RowDropped("empty_prompt", "the last user turn is empty")
    return Prompt(tuple(turns), system, tools)


def check_turns(turns: Sequence[Turn], previous: Turn | None = None) -> None:
    """Check that inputs and outputs alternate after `previous`, and that results of tools follow a call.

    Raises:
        RowDropped: They do not.
    """
    for position, turn in enumerate(turns):
        if turn.role not in (allowed := _next_roles(previous)):
            expected = " or ".join(allowed)
            raise RowDropped("bad_turns", f"turn {position + 1} has the role {turn.role}, expected {expected}")
        previous = turn


def _next_roles(previous: Turn | None) -> tuple[str, ...]:
    if previous is None:
        return ("user",)
    if previous.role == "assistant":
        return ("user", "observation") if previous.tool_calls else ("user",)
    return ("assistant", "observation") if previous.role == "observation" else ("assistant",)


def write_messages(prompt: Prompt) -> list[dict[str, Any]]:
    """Convert a prompt to messages with `role` (system, user, assistant or tool), `content` and calls of tools."""
    system = [Turn("system", prompt.system)] if prompt.system else []
    return [write_message(turn) for turn in (*system, *prompt.turns)]


def write_message(turn: Turn) -> dict[str, Any]:
    """Convert a turn to a message in the form of OpenAI; its thought is not part of the message."""
    message: dict[str, Any] = {"role": "tool" if turn.role == "observation" else turn.role, "content": turn.content}
    if turn.tool_calls:
        message["tool_calls"] = [
            {
                **({"id": call.id} if call.id else {}),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in turn.tool_calls
        ]
    fields = {"name": turn.name, "tool_call_id": turn.tool_call_id}
    return message | {field: value for field, value in fields.items() if value}


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


def split_response(turns: Sequence[Turn], what: str) -> tuple[Turns, Turn]:
    """Split a dialogue into the turns before the last response, and that response.

    Raises:
        RowDropped: The dialogue does not end with a response.
    """
    if not turns or turns[-1].role != "assistant":
        raise RowDropped("bad_turns", f"{what} does not end with a response of the assistant")
    return tuple(turns[:-1]), turns[-1]
