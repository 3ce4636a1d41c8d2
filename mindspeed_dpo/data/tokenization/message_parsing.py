"""Parses dialogues: lists of messages with configurable names of keys and roles, and `Human:` / `Assistant:` text.

Both are converted to `Turn`s, and prompts back to messages. Handlers select the column with the dialogue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mindspeed_dpo.data.tokenization.examples import Prompt, RowDropped, Turn

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

_INPUT_ROLES, _OUTPUT_ROLES = ("user", "observation"), ("assistant", "function")
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def text_or_empty(value: Any, what: str) -> str:
    """Return `value`, or an empty text if it is None.

    Raises:
        RowDropped: `value` is neither text nor None.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowDropped("not_text", f"{what} should be text, but is {type(value).__name__}")
    return value


def read_turn(message: Any, tags: dict[str, str], default_role: str | None = None) -> Turn:
    """Convert one message to a turn; plain text becomes a turn of `default_role` unless that is None.

    Raises:
        RowDropped: The message has an unexpected form or role.
    """
    if isinstance(message, str) and default_role is not None:
        return Turn(default_role, message)
    role_tag, content_tag = tags["role_tag"], tags["content_tag"]
    if not isinstance(message, dict) or role_tag not in message or content_tag not in message:
        raise RowDropped("bad_turns", f"a message should have the keys {role_tag} and {content_tag}: {message!r:.80}")
    roles = {tags[f"{role}_tag"]: role for role in (*_INPUT_ROLES, *_OUTPUT_ROLES, "system")}
    role = roles.get(message[role_tag])
    if role is None:
        raise RowDropped("unknown_role", f"role {message[role_tag]!r} is not one of {', '.join(roles)}")
    return Turn(role, text_or_empty(message[content_tag], "the content of a message"))


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
        RowDropped: There is no final input, the roles do not alternate, or tools are used.
    """
    if turns and turns[0].role == "system":
        system, turns = turns[0].content or system, turns[1:]
    if not turns:
        raise RowDropped("empty_prompt", "there is no user turn")
    for position, turn in enumerate(turns):
        expected = _OUTPUT_ROLES if position % 2 else _INPUT_ROLES
        if turn.role not in expected:
            raise RowDropped(
                "bad_turns", f"turn {position + 1} has the role {turn.role}, expected {' or '.join(expected)}"
            )
    if len(turns) % 2 == 0:
        raise RowDropped(
            "bad_turns", "the dialogue ends with a turn of the assistant, so there is no response to generate"
        )
    if tools.strip() or any(turn.role == "function" for turn in turns):
        raise RowDropped("tools", "the row contains tool text or a function call")
    if not turns[-1].content.strip():
        raise RowDropped("empty_prompt", "the last user turn is empty")
    return Prompt(tuple(turns), system)


def write_messages(prompt: Prompt) -> list[dict[str, str]]:
    """Convert a prompt to messages with the keys `role` (system, user, assistant or tool) and `content`."""
    roles = {"observation": "tool"}
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return system + [{"role": roles.get(turn.role, turn.role), "content": turn.content} for turn in prompt.turns]


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


def split_response(turns: Sequence[Turn], what: str) -> tuple[tuple[Turn, ...], str]:
    """Split a dialogue into the turns before the last response, and that response.

    Raises:
        RowDropped: The dialogue does not end with a response.
    """
    if not turns or turns[-1].role != "assistant":
        raise RowDropped("bad_turns", f"{what} does not end with a response of the assistant")
    return tuple(turns[:-1]), turns[-1].content


def parse_response(value: Any, tags: dict[str, str], what: str) -> str:
    """Return the text of a response given as text, message, list of texts (the first) or list of messages (the last).

    Raises:
        RowDropped: The response has another form, or its role is not assistant.
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        if not value:
            return ""
        value = value[0] if isinstance(value[0], str) else value[-1]
    turn = read_turn(value, tags, default_role="assistant")
    if turn.role == "function":
        raise RowDropped("tools", f"{what} is a function call")
    if turn.role != "assistant":
        raise RowDropped("bad_turns", f"{what} has the role {turn.role}, expected assistant")
    return turn.content
