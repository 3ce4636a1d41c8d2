"""JSON: values and objects, with bounds on nesting and on the digits of an integer; an object has a key once.

`JsonObject` in `json_object` reads the items of an object by type.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.text_files import MAX_SMALL_FILE_BYTES, decode_text, read_text

MAX_DEPTH = 100
"""Limit for lists and objects within each other; what walks a value recursively then stays within Python's limit."""
MAX_DIGITS = 300
"""Limit for the digits of an integer; with more, its conversion to a float fails and its parsing takes long."""
_TOO_DEEP = f"JSON is nested more than {MAX_DEPTH} deep"


class UnacceptedValueError(MalformedDataError):
    """A JSON value that is well formed and not accepted.

    Attributes:
        end: Position in the text after the value.
    """

    def __init__(self, message: str, end: int) -> None:
        super().__init__(message)
        self.end = end


class _Problems:
    """The hooks of a decoder, which note what is not accepted in a value: an error would leave its end unknown."""

    def __init__(self) -> None:
        self.first = ""

    def integer(self, digits: str) -> int:
        if len(digits) <= MAX_DIGITS:
            return int(digits)
        self.first = self.first or f"an integer has {len(digits)} digits, more than {MAX_DIGITS}"
        return 0

    def items(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        items = dict(pairs)
        if len(items) < len(pairs) and not self.first:
            (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            self.first = f"an object has the key {key!a:.80} twice"
        return items


_WHITESPACE = re.compile(r"[ \t\r\n]*")


def parse_json(text: str | bytes, location: str) -> Any:
    """Parse one JSON value.

    Args:
        text: The JSON text; bytes are UTF-8.
        location: The file and row, or the sender, which begins the message of an error.

    Raises:
        MalformedDataError: It is not UTF-8 or not JSON, or exceeds a limit.
    """
    text = decode_text(text, location) if isinstance(text, bytes) else text
    value, end = parse_json_prefix(text, skip_whitespace(text, 0), location)
    end = skip_whitespace(text, end)
    if end < len(text):
        line, column = _BEGINNING.place(text, end)
        raise MalformedDataError(f"{location}: line {line}, column {column}: invalid JSON: text after the value")
    return value


@dataclass(frozen=True)
class TextStart:
    """The start of a text within a longer one, for example `TextStart(line=3, column=17)`, both counted from 1."""

    line: int = 1
    column: int = 1

    def place(self, text: str, position: int) -> tuple[int, int]:
        """Return line and column in the longer text of a position in this one."""
        num_lines = text.count("\n", 0, position)
        column = position - text.rfind("\n", 0, position)
        return self.line + num_lines, column if num_lines else self.column + position

    def moved(self, text: str, position: int) -> TextStart:
        """Return the start of the rest of a text from a position on."""
        return TextStart(*self.place(text, position))


_BEGINNING = TextStart()


def parse_json_prefix(text: str, start: int, location: str, text_start: TextStart = _BEGINNING) -> tuple[Any, int]:
    """Parse the JSON value at position `start` of a text, and return it with the position after it.

    Args:
        text: The text.
        start: Position of the value's first character.
        location: Beginning of the message of an error, which gives line and column.
        text_start: Where the text starts within the file.

    Raises:
        UnacceptedValueError: The value exceeds a limit, or an object has a key twice; its end is known.
        MalformedDataError: There is no JSON value, or its end is not known; the message begins with `location`.
    """
    problems = _Problems()
    decoder = json.JSONDecoder(parse_int=problems.integer, object_pairs_hook=problems.items)
    try:
        value, end = decoder.raw_decode(text, start)
    except json.JSONDecodeError as error:
        line, column = text_start.place(text, error.pos)
        raise MalformedDataError(f"{location}: line {line}, column {column}: invalid JSON: {error.msg}") from error
    except RecursionError as error:
        raise MalformedDataError(f"{location}: {_TOO_DEEP}") from error
    if problems.first:
        raise UnacceptedValueError(f"{location}: {problems.first}", end)
    if text.count("[", start, end) + text.count("{", start, end) > MAX_DEPTH and _is_deep(value):
        raise UnacceptedValueError(f"{location}: {_TOO_DEEP}", end)
    return value, end


def read_json(path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES) -> Any:
    """Read a file that holds one JSON value.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not UTF-8 or not JSON, or exceeds a limit; the message names the file.
    """
    return parse_json(read_text(path, max_bytes), str(path))


def read_json_object(path: Path, max_bytes: int = MAX_SMALL_FILE_BYTES) -> JsonObject:
    """Read a file that holds one JSON object.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is not a JSON object, or exceeds a limit; the message names the file.
    """
    return JsonObject.of(read_json(path, max_bytes), str(path))


def parse_json_object(text: str | bytes, location: str) -> JsonObject:
    """Parse one JSON object; the arguments are those of `parse_json`.

    Raises:
        MalformedDataError: It is not a JSON object, or exceeds a limit; the message begins with `location`.
    """
    return JsonObject.of(parse_json(text, location), location)


def check_depth(value: Any, location: str) -> None:
    """Check that lists and objects are not nested deeper than `MAX_DEPTH`.

    Raises:
        MalformedDataError: They are; the message begins with `location`.
    """
    if _is_deep(value):
        raise MalformedDataError(f"{location}: {_TOO_DEEP}")


def _is_deep(value: Any) -> bool:
    level, depth = [value], 0
    while level := [node for node in level if isinstance(node, (dict, list))]:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        level = [item for node in level for item in (node.values() if isinstance(node, dict) else node)]
    return False


def skip_whitespace(text: str, position: int) -> int:
    """Return the first position from `position` on that holds no JSON whitespace; the length of the text at its end."""
    return cast(re.Match[str], _WHITESPACE.match(text, position)).end()
