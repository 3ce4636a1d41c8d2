"""A JSON object whose items are read by type; an error names the file and the path of keys to the item."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, overload

from mindspeed_dpo.untrusted.errors import MalformedDataError

T = TypeVar("T")
_INT64 = 1 << 63
_NAMES: dict[type, str] = {
    dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "an integer", float: "a number",
    type(None): "null",
}  # fmt: skip


class _Required:
    """The type of the default that stands for "there is none"."""


REQUIRED = _Required()


class JsonObject(Mapping[str, Any]):
    """The items of a JSON object; a mapping of plain values, with a method for each type that an item may have.

    An item that is absent or null has the default, and is an error without one.

    Example:
        JsonObject.of({"rope": {"theta": 1e6}}, "a/config.json").section("rope").number("theta")

    Attributes:
        location: The file, or the file and the path of keys, which begins the messages of errors.
    """

    def __init__(self, items: dict[str, Any], location: str) -> None:
        self._items = items
        self.location = location

    @classmethod
    def of(cls, value: Any, location: str) -> JsonObject:
        """Wrap a parsed JSON value.

        Raises:
            MalformedDataError: The value is not an object.
        """
        if not isinstance(value, dict):
            raise MalformedDataError(f"{location} must hold a JSON object, got {_described(value)}")
        return cls(value, location)

    def __getitem__(self, key: str) -> Any:
        """The plain value of a key."""
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order of the file."""
        return iter(self._items)

    def __len__(self) -> int:
        """Number of keys."""
        return len(self._items)

    def plain(self) -> dict[str, Any]:
        """The object as a plain dictionary."""
        return self._items

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: T) -> str | T: ...
    def text(self, key: str, default: Any = REQUIRED) -> Any:
        """Read a text that is valid Unicode without null characters, so that it can be part of a path or message.

        Raises:
            MalformedDataError: The item is absent without a default, or no such text.
        """
        value = self._value(key, default)
        return value if value is default else self._text(value, key)

    @overload
    def boolean(self, key: str) -> bool: ...
    @overload
    def boolean(self, key: str, default: T) -> bool | T: ...
    def boolean(self, key: str, default: Any = REQUIRED) -> Any:
        """Read `true` or `false`.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        value = self._value(key, default)
        if value is default or isinstance(value, bool):
            return value
        raise self._mismatch(key, "true or false", value)

    @overload
    def integer(self, key: str, *, minimum: int | None = None) -> int: ...
    @overload
    def integer(self, key: str, default: T, *, minimum: int | None = None) -> int | T: ...
    def integer(self, key: str, default: Any = REQUIRED, *, minimum: int | None = None) -> Any:
        """Read an integer of 64 bits; 8.0 is one, 8.5 and true are not.

        Raises:
            MalformedDataError: The item is absent without a default, no integer, or less than `minimum`.
        """
        value = self._value(key, default)
        return value if value is default else self._integer(value, key, minimum)

    @overload
    def number(self, key: str) -> float: ...
    @overload
    def number(self, key: str, default: T) -> float | T: ...
    def number(self, key: str, default: Any = REQUIRED) -> Any:
        """Read a finite number.

        Raises:
            MalformedDataError: The item is absent without a default, or no finite number.
        """
        value = self._value(key, default)
        return value if value is default else self._number(value, key)

    @overload
    def section(self, key: str) -> JsonObject: ...
    @overload
    def section(self, key: str, default: T) -> JsonObject | T: ...
    def section(self, key: str, default: Any = REQUIRED) -> Any:
        """Read an object.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        value = self._value(key, default)
        if value is default:
            return value
        if not isinstance(value, dict):
            raise self._mismatch(key, "an object", value)
        return JsonObject(value, f"{self.location}: {key}")

    @overload
    def sequence(self, key: str) -> list[Any]: ...
    @overload
    def sequence(self, key: str, default: T) -> list[Any] | T: ...
    def sequence(self, key: str, default: Any = REQUIRED) -> Any:
        """Read a list of any values.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        value = self._value(key, default)
        if value is default or isinstance(value, list):
            return value
        raise self._mismatch(key, "a list", value)

    def objects(self, key: str, default: Any = REQUIRED) -> tuple[JsonObject, ...]:
        """Read a list of objects.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        items = self.sequence(key, default)
        for item in items:
            if not isinstance(item, dict):
                raise self._mismatch(key, "a list of objects", item)
        return tuple(JsonObject(item, f"{self.location}: {key}[{number}]") for number, item in enumerate(items))

    @overload
    def texts(self, key: str) -> tuple[str, ...]: ...
    @overload
    def texts(self, key: str, default: T) -> tuple[str, ...] | T: ...
    def texts(self, key: str, default: Any = REQUIRED) -> Any:
        """Read a list of texts.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        items = self.sequence(key, default)
        return items if items is default else tuple(self._text(item, key) for item in items)

    def integers(self, key: str, default: Any = REQUIRED) -> tuple[int, ...]:
        """Read a list of integers of 64 bits.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        return tuple(self._integer(item, key, None) for item in self.sequence(key, default))

    def numbers(self, key: str, default: Any = REQUIRED) -> tuple[float, ...]:
        """Read a list of finite numbers.

        Raises:
            MalformedDataError: The item is absent without a default, or of another type.
        """
        return tuple(self._number(item, key) for item in self.sequence(key, default))

    def _value(self, key: str, default: Any) -> Any:
        value = self._items.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise MalformedDataError(f"{self.location} lacks {key!r}" + (", which is null" if key in self else ""))
        return default

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            raise self._mismatch(key, "a text", value)
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise self._mismatch(key, "a text of Unicode characters", value)
        return value

    def _number(self, value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._mismatch(key, "a finite number", value)
        return float(value)

    def _integer(self, value: Any, key: str, minimum: int | None) -> int:
        is_integer = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not is_integer or not -_INT64 <= value < _INT64:
            raise self._mismatch(key, "an integer", value)
        if minimum is not None and value < minimum:
            raise self._mismatch(key, f"an integer of at least {minimum}", value)
        return int(value)

    def _mismatch(self, key: str, expected: str, value: Any) -> MalformedDataError:
        return MalformedDataError(f"{self.location}: {key} must be {expected}, got {_described(value)}")


def _described(value: Any) -> str:
    """The type of a value, and the value where it is short; printable in any encoding."""
    name = _NAMES.get(type(value), type(value).__name__)
    return name if isinstance(value, (dict, list, type(None))) else f"{name}, {ascii(reprlib.repr(value))[1:-1]}"
