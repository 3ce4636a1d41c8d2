"""Parses definitions and calls of tools, in the forms of OpenAI, Hugging Face and ShareGPT, as objects or JSON text.

All forms of the same definition or call give the same result: JSON text in the form of OpenAI.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mindspeed_dpo.data.tokenization.examples import RowDropped, ToolCall
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_text import parse_json


def read_tools(value: Any) -> str:
    """Return definitions of tools as JSON text of `[{"type": "function", "function": {"name", ...}}, ...]`.

    Args:
        value: A list of tools, one tool, or JSON text of these; a tool may also be the inner object, with its name.

    Raises:
        RowDropped: It has another form.
    """
    return _json_text([_read_tool(tool) for tool in _objects(value, "tools")])


def _read_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(_function_of(tool, "a tool"))
    if isinstance(function.get("parameters"), str):
        function["parameters"] = _parsed(function["parameters"], "the parameters of a tool")
    return {"type": "function", "function": _without_nulls(function)}


def read_tool_calls(value: Any) -> tuple[ToolCall, ...]:
    """Return the calls of a message.

    Args:
        value: A list of calls, one call, or JSON text of these; a call is `{"id", "function": {"name", "arguments"}}`
            or `{"name", "arguments"}`, with its arguments as an object or as JSON text of one.

    Raises:
        RowDropped: It has another form.
    """
    return tuple(map(_read_call, _objects(value, "tool calls")))


def _read_call(call: Mapping[str, Any]) -> ToolCall:
    function = _function_of(call, "a tool call")
    identifier = call.get("id")
    if not isinstance(identifier, str | None):
        raise RowDropped("tools", f"the id of a tool call should be text: {identifier!r:.80}")
    return ToolCall(function["name"], _arguments(function.get("arguments")), identifier or "")


def _arguments(value: Any) -> str:
    """Return arguments as JSON text; nulls of an object are left out, since Arrow tables add them to every object."""
    if isinstance(value, str) and value.strip():
        arguments = _parsed(value, "the arguments of a tool call")
    else:
        arguments = _without_nulls(value or {})
    if not isinstance(arguments, dict):
        raise RowDropped("tools", f"the arguments of a tool call should be an object: {arguments!r:.80}")
    return _json_text(arguments)


def _function_of(item: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Return the object with the name, which may be the item itself."""
    inner = item.get("function")
    function = inner if isinstance(inner, dict) else item
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RowDropped("tools", f"{what} should have a name: {item!r:.80}")
    return function


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    value = _parsed(value, what) if isinstance(value, str) else value
    items = value if isinstance(value, list | tuple) else [value]
    items = [_parsed(item, what) if isinstance(item, str) else item for item in items]
    if not items or not all(isinstance(item, dict) for item in items):
        raise RowDropped("tools", f"{what} should be a list of objects, got {value!r:.80}")
    return items


def _parsed(text: str, what: str) -> Any:
    try:
        return parse_json(text, what)
    except MalformedDataError as error:
        raise RowDropped("tools", f"{error}: {text!r:.80}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def _json_text(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowDropped("tools", f"a tool or its call has no form in JSON: {error}") from error
