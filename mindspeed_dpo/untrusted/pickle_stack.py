"""The values that the instructions of a pickle build: a stack with marks, and the memo of values to refer to."""

from __future__ import annotations

from typing import Any

from mindspeed_dpo.untrusted.pickle_names import InertObject, PickleError

_MAX_KEY_ITEMS = 32
_MAX_INTEGER_KEY = 1 << 60
"""Larger integers may share one hash, which makes a dictionary of them slow."""


class PickleStack:
    """Stack, marks and memo of one run. A value that is missing, or of another type than needed, is a `PickleError`."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._values.append(value)

    def pop(self) -> Any:
        """Take the value on top, which lies above the last mark.

        Raises:
            PickleError: There is none.
        """
        if len(self._values) <= (self._marks[-1] if self._marks else 0):
            raise PickleError("it is damaged: a value is missing")
        return self._values.pop()

    def top(self) -> Any:
        """The value on top, which lies above the last mark."""
        value = self.pop()
        self._values.append(value)
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take all values above the last mark, and the mark.

        Raises:
            PickleError: There is no mark.
        """
        if not self._marks:
            raise PickleError("it is damaged: a mark is missing")
        start = self._marks.pop()
        items = self._values[start:]
        del self._values[start:]
        return items

    def memoize(self, key: int | None = None) -> None:
        """Store the value on top under a key, by default the next one."""
        self._memo[len(self._memo) if key is None else key] = self.top()

    def recall(self, key: int) -> None:
        """Put a value of the memo on the stack.

        Raises:
            PickleError: There is none of this key.
        """
        if key not in self._memo:
            raise PickleError("it is damaged: a reference to a value that does not exist")
        self._values.append(self._memo[key])

    def push_tuple(self, num_items: int) -> None:
        """Replace so many values by their tuple."""
        items = [self.pop() for _ in range(num_items)]
        self.push(tuple(reversed(items)))

    def mark(self) -> None:
        """Set a mark on top."""
        self._marks.append(len(self._values))

    def drop(self) -> None:
        """Drop the value on top, or the mark."""
        if self._marks and len(self._values) == self._marks[-1]:
            self._marks.pop()
        else:
            self.pop()

    def append(self, items: list[Any]) -> None:
        """Append items to the list on top.

        Raises:
            PickleError: It is no list.
        """
        target = self.top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, InertObject):
            raise PickleError("items are appended to something that is not a list")

    def set_items(self, items: list[Any]) -> None:
        """Set keys and values, in turn, in the dictionary on top.

        Raises:
            PickleError: It is no dictionary, or a key has no value.
        """
        target = self.top()
        if len(items) % 2:
            raise PickleError("it is damaged: a key has no value")
        if isinstance(target, dict):
            check_keys(items[::2])
            target.update(zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, InertObject):
            raise PickleError("items are set in something that is not a dictionary")

    def add_items(self) -> None:
        """Add the items above the last mark to the set below it.

        Raises:
            PickleError: It is no set.
        """
        items, target = self.pop_to_mark(), self.top()
        if type(target) is not set:
            raise PickleError("items are added to something that is not a set")
        check_keys(items)
        target.update(items)

    def push_frozenset(self) -> None:
        """Replace the items above the last mark by their frozen set."""
        items = self.pop_to_mark()
        check_keys(items)
        self.push(frozenset(items))


def check_keys(keys: list[Any]) -> None:
    """Check that keys are texts, numbers, objects or flat tuples of these, which are hashed and compared fast.

    Raises:
        PickleError: A key is something else.
    """
    for key in keys:
        items = key if type(key) is tuple else (key,)
        if len(items) > _MAX_KEY_ITEMS or not all(map(_is_simple_key, items)):
            raise PickleError("a key is not a text, a small integer or a tuple of these")


def _is_simple_key(key: Any) -> bool:
    if type(key) is int:
        return abs(key) < _MAX_INTEGER_KEY
    return key is None or type(key) in (str, bytes, bool, InertObject)
