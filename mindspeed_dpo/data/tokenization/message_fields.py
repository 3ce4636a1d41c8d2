"""Parses single messages: role, text, thought, calls of tools, and the fields whose meaning cannot be represented.

A field that changes what a message means is used, or the row is dropped with the name of the field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.data.tokenization.examples import RowDropped, ToolCall, Turn
from mindspeed_dpo.data.tokenization.tool_fields import read_tool_calls

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold a thought apart from the content; templates differ in which one they read."""
_UNSUPPORTED_FIELDS = {
    **dict.fromkeys(("tool_calls", "function_call", "tool_call_id", "tools", "functions"), "tools"),
    **dict.fromkeys(("image", "images", "image_url", "audio", "audios", "video", "videos"), "media"),
    **dict.fromkeys(("name", "refusal"), "unsupported_field"),
}
"""Fields of a message that change its meaning, with the reason for which a row with them is dropped."""
_TEXT_PART_TYPES = (None, "text", "input_text", "output_text")

_FUNCTION = "function"
_ROLES = ("user", "assistant", "system", "observation", _FUNCTION)
_TOOL_ROLES = {
    "tool": "observation",
    "function": "observation",
    "observation": "observation",
    "function_call": _FUNCTION,
    "tool_call": _FUNCTION,
}
"""Spellings of roles that belong to tools, whatever the tags."""
_CALL_FIELDS = ("tool_calls", "function_call")


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
        RowDropped: The message has an unexpected form or role, or a field that is not supported.
    """
    if isinstance(message, str) and default_role is not None:
        return Turn(default_role, message)
    role_tag, content_tag = tags["role_tag"], tags["content_tag"]
    if not isinstance(message, dict) or role_tag not in message:
        raise RowDropped("bad_turns", f"a message should have the keys {role_tag} and {content_tag}: {message!r:.80}")
    role = _role(message[role_tag], tags)
    _check_fields(message, {role_tag, content_tag, *_fields_of(role)})
    calls = _calls(message, role, content_tag)
    if content_tag not in message and not calls:
        raise RowDropped("bad_turns", f"a message should have the keys {role_tag} and {content_tag}: {message!r:.80}")
    if role == _FUNCTION:
        return Turn("assistant", "", _thought(message), calls)
    result = {"name": _text_of(message, "name"), "tool_call_id": _text_of(message, "tool_call_id")}
    result = result if role == "observation" else {}
    return Turn(role, _content(message.get(content_tag)), _thought(message), calls, **result)


def _role(value: Any, tags: dict[str, str]) -> str:
    roles: dict[str, str] = {}
    for name in _ROLES:
        roles.setdefault(tags[f"{name}_tag"], name)
    role = (roles.get(value) or _TOOL_ROLES.get(value)) if isinstance(value, str) else None
    if role is None:
        raise RowDropped("unknown_role", f"role {value!r:.80} is not one of {', '.join(roles)}")
    return role


def _fields_of(role: str) -> tuple[str, ...]:
    """Return the fields apart from role and content that a message of a role may have."""
    if role == "observation":
        return "name", "tool_call_id"
    return _CALL_FIELDS if role == "assistant" else ()


def _calls(message: Mapping[str, Any], role: str, content_tag: str) -> tuple[ToolCall, ...]:
    """Return the calls of a message of the assistant, or of one that is a call itself, as in ShareGPT."""
    if role == _FUNCTION:
        return read_tool_calls(message.get(content_tag))
    given = [message.get(field) for field in _CALL_FIELDS if not is_empty(message.get(field))]
    if role != "assistant" or not given:
        return ()
    if len(given) > 1:
        raise RowDropped("tools", f"a message has both {' and '.join(_CALL_FIELDS)}")
    return read_tool_calls(given[0])


def _text_of(message: Mapping[str, Any], field: str) -> str:
    return text_or_empty(message.get(field), field).strip()


def _check_fields(message: Mapping[str, Any], read: set[str]) -> None:
    for field, reason in _UNSUPPORTED_FIELDS.items():
        if field not in read and not is_empty(message.get(field)):
            raise RowDropped(reason, f"a message has the field {field}: {message[field]!r:.80}")


def _content(value: Any) -> str:
    """Return the text of a message, which may be a list of parts, as for models that also take images."""
    if not isinstance(value, list | tuple):
        return text_or_empty(value, "the content of a message")
    return "".join(map(_part_text, value))


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowDropped("not_text", f"a part of a message should be text, but is {type(part).__name__}")
    others = [key for key, value in part.items() if key not in ("type", "text") and not is_empty(value)]
    if part.get("type") not in _TEXT_PART_TYPES or others:
        raise RowDropped("media", f"a part of a message is not text: {part!r:.80}")
    return text_or_empty(part.get("text"), "a part of a message")


def _thought(message: Mapping[str, Any]) -> str:
    """Return the thought that a message holds in a field of its own; fields that repeat it count once."""
    thoughts = [text_or_empty(message.get(field), field) for field in THOUGHT_FIELDS]
    distinct = {thought for thought in thoughts if thought.strip()}
    if len(distinct) > 1:
        raise RowDropped("unsupported_field", f"a message has different thoughts in {' and '.join(THOUGHT_FIELDS)}")
    return next(iter(distinct), "")


def is_empty(value: Any) -> bool:
    """Return whether a field holds nothing: null, blank text, or a list or an object of such, also as JSON text."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}", "null", "None")
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_empty, value))
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_weight(message: Any) -> None:
    """Check that a response is not excluded from training by the field `weight` of its message.

    Raises:
        RowDropped: The weight is not 1.
    """
    weight = message.get("weight") if isinstance(message, dict) else None
    if not is_empty(weight) and weight != 1:
        raise RowDropped("unsupported_field", f"the message of a response has the field weight: {weight!r:.80}")
