"""An interpreter of pickles that builds plain data only, in time and memory proportional to their size.

Python's own unpickler cannot be bounded by a table of names alone: `bytearray` of a number, an index of its memo and
tuples within tuples as keys take any amount of memory or time. This one knows the instructions of protocols 2 to 5.
What names stand for is defined in `pickle_names`.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.pickle_names import SETS, Constructor, InertName, InertObject, PickleError, resolve_name
from mindspeed_dpo.untrusted.text_files import read_bytes

MAX_PICKLE_BYTES = 1 << 28
"""Limit for a pickle without its tensors; those of the largest checkpoints take some tens of megabytes."""
_MAX_NAMES = 10_000
_MAX_INTEGER_BYTES = 64
_MAX_KEY_ITEMS = 32
_MAX_INTEGER_KEY = 1 << 60
"""Larger integers may share one hash, which makes a dictionary of them slow."""

LoadStorage = Callable[[Any], Any]


def parse_pickle(
    data: bytes, allowed_names: frozenset[str] = frozenset(), load_storage: LoadStorage | None = None
) -> Any:
    """Interpret a pickle.

    Args:
        data: The pickle.
        allowed_names: Names that `reject_foreign_objects` accepts besides its own.
        load_storage: Resolves a reference to a tensor storage; by default there are none.

    Returns:
        Plain data, tensors, and `InertObject` in place of everything else.

    Raises:
        PickleError: It is damaged, or asks for more than plain data.
    """
    return _Interpreter(data, allowed_names, load_storage).run()


def read_pickle(path: Path, allowed_names: frozenset[str] = frozenset()) -> Any:
    """Read a file that holds one pickle; arguments and result are those of `parse_pickle`.

    Raises:
        FileNotFoundError: It does not exist.
        MalformedDataError: It is damaged or too large, or asks for more than plain data.
    """
    try:
        return parse_pickle(read_bytes(path, MAX_PICKLE_BYTES), allowed_names)
    except PickleError as error:
        raise MalformedDataError(f"{path} cannot be read: {error}") from error


class _Interpreter:
    """The state of one run: position in the pickle, stack, marks and memo."""

    def __init__(self, data: bytes, allowed_names: frozenset[str], load_storage: LoadStorage | None) -> None:
        self._data, self._position = data, 0
        self._allowed_names, self._load_storage = allowed_names, load_storage
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._names: dict[str, Any] = {}
        # Calls may copy what is already built; all copies together are bounded by the size of the pickle.
        self._copies_left = len(data) + 1000

    def run(self) -> Any:
        """Interpret the instructions up to STOP and return the value on the stack."""
        data, instructions = self._data, self._INSTRUCTIONS
        while self._position < len(data):
            code = data[self._position]
            self._position += 1
            if code == 0x2E:
                return self._pop()
            instruction = instructions.get(code)
            if instruction is None:
                raise PickleError(f"instruction {code:#04x} at byte {self._position - 1} is not supported")
            instruction(self)
        raise PickleError("it is truncated: the pickle does not end")

    def _take(self, num_bytes: int) -> bytes:
        start, end = self._position, self._position + num_bytes
        if end > len(self._data):
            raise PickleError("it is truncated: a value extends beyond the end")
        self._position = end
        return self._data[start:end]

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self._position, self._position + 1000)
        if end < 0:
            raise PickleError("a name does not end")
        line = self._take(end - self._position)
        self._position += 1
        return self._decoded(line)

    @staticmethod
    def _decoded(data: bytes) -> str:
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise PickleError(f"a text is not UTF-8: {error.reason}") from error

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise PickleError("it is damaged: a value is missing")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise PickleError("it is damaged: a mark is missing")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _memoize(self, key: int) -> None:
        self._memo[key] = self._top()

    def _recall(self, key: int) -> None:
        if key not in self._memo:
            raise PickleError("it is damaged: a reference to a value that is not there")
        self._stack.append(self._memo[key])

    def _long(self, num_bytes: int) -> None:
        if not 0 <= num_bytes <= _MAX_INTEGER_BYTES:
            raise PickleError(f"an integer has {num_bytes} bytes")
        self._push(int.from_bytes(self._take(num_bytes), "little", signed=True))

    def _text(self, num_bytes: int) -> None:
        self._push(self._decoded(self._take(num_bytes)))

    def _legacy_string(self, num_bytes: int) -> None:
        """A string of Python 2: text where it is UTF-8."""
        if num_bytes < 0:
            raise PickleError("a string has a negative length")
        self._push(self._decoded(self._take(num_bytes)))

    def _tuple(self, num_items: int) -> None:
        items = [self._pop() for _ in range(num_items)]
        self._push(tuple(reversed(items)))

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _drop(self) -> None:
        if self._marks and len(self._stack) == self._marks[-1]:
            self._marks.pop()
        else:
            self._pop()

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, InertObject):
            raise PickleError("items are appended to something that is not a list")

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if len(items) % 2:
            raise PickleError("it is damaged: a key has no value")
        if isinstance(target, dict):
            _check_keys(items[::2])
            target.update(zip(items[::2], items[1::2], strict=True))
        elif not isinstance(target, InertObject):
            raise PickleError("items are set in something that is not a dictionary")

    def _add_items(self) -> None:
        items, target = self._pop_to_mark(), self._top()
        if type(target) is not set:
            raise PickleError("items are added to something that is not a set")
        _check_keys(items)
        target.update(items)

    def _frozenset(self) -> None:
        items = self._pop_to_mark()
        _check_keys(items)
        self._push(frozenset(items))

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a name is not a text")
        full = f"{module[:500]}.{name[:500]}"
        if full not in self._names:
            if len(self._names) >= _MAX_NAMES:
                raise PickleError(f"it mentions more than {_MAX_NAMES} names")
            self._names[full] = resolve_name(full, self._allowed_names)
        self._push(self._names[full])

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._global(module, name)

    def _call(self, function: Any, args: Any) -> None:
        """Replace a call, of a function or a class, by its plain result or by a record of it."""
        if not isinstance(args, tuple):
            raise PickleError("the arguments of a call are not a tuple")
        if isinstance(function, (InertName, InertObject)):
            self._push(InertObject(function.name if isinstance(function, InertObject) else function, args))
            return
        if not isinstance(function, Constructor):
            raise PickleError(f"it calls a value of type {type(function).__name__}")
        self._copies_left -= sum(len(arg) for arg in args if isinstance(arg, (list, tuple)))
        if self._copies_left < 0:
            raise PickleError("it copies its values again and again")
        if function in SETS.values():
            _check_keys([item for arg in args if isinstance(arg, (list, tuple)) for item in arg])
        try:
            self._push(function.build(*args))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise PickleError(str(error)[:300] or type(error).__name__) from error

    def _reduce(self) -> None:
        args, function = self._pop(), self._pop()
        self._call(function, args)

    def _new_object_with_keywords(self) -> None:
        self._pop()
        self._reduce()

    def _build(self) -> None:
        """Set the state of an object; attributes of dictionaries and tensors have no meaning here."""
        state, target = self._pop(), self._top()
        if isinstance(target, InertObject):
            target.state = state
        elif isinstance(target, (argparse.Namespace, SimpleNamespace)):
            if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
                raise PickleError("the state of a namespace is not a dictionary of names")
            self._copies_left -= len(state)
            if self._copies_left < 0:
                raise PickleError("it copies its values again and again")
            vars(target).update(state)
        elif not isinstance(target, (dict, Tensor)):
            raise PickleError(f"it sets the state of a value of type {type(target).__name__}")

    def _persistent_id(self) -> None:
        if self._load_storage is None:
            raise PickleError("an unexpected reference to a tensor storage")
        self._push(self._load_storage(self._pop()))

    _U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
    _I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
    _INSTRUCTIONS: ClassVar[dict[int, Callable[[_Interpreter], object]]] = {
        0x80: lambda self: self._check_protocol(self._number(self._U1)),
        0x95: lambda self: self._take(8),
        ord("("): _mark,
        ord("0"): _drop,
        ord("1"): lambda self: self._pop_to_mark(),
        ord("2"): lambda self: self._push(self._top()),
        ord("N"): lambda self: self._push(None),
        0x88: lambda self: self._push(True),
        0x89: lambda self: self._push(False),
        ord("J"): lambda self: self._push(self._number(self._I4)),
        ord("K"): lambda self: self._push(self._number(self._U1)),
        ord("M"): lambda self: self._push(self._number(self._U2)),
        0x8A: lambda self: self._long(self._number(self._U1)),
        0x8B: lambda self: self._long(self._number(self._I4)),
        ord("G"): lambda self: self._push(self._number(self._F8)),
        ord("X"): lambda self: self._text(self._number(self._U4)),
        0x8C: lambda self: self._text(self._number(self._U1)),
        0x8D: lambda self: self._text(self._number(self._U8)),
        ord("U"): lambda self: self._legacy_string(self._number(self._U1)),
        ord("T"): lambda self: self._legacy_string(self._number(self._I4)),
        ord("C"): lambda self: self._push(self._take(self._number(self._U1))),
        ord("B"): lambda self: self._push(self._take(self._number(self._U4))),
        0x8E: lambda self: self._push(self._take(self._number(self._U8))),
        0x96: lambda self: self._push(self._take(self._number(self._U8))),
        ord(")"): lambda self: self._push(()),
        0x85: lambda self: self._tuple(1),
        0x86: lambda self: self._tuple(2),
        0x87: lambda self: self._tuple(3),
        ord("t"): lambda self: self._push(tuple(self._pop_to_mark())),
        ord("]"): lambda self: self._push([]),
        ord("l"): lambda self: self._push(self._pop_to_mark()),
        ord("a"): lambda self: self._append([self._pop()]),
        ord("e"): lambda self: self._append(self._pop_to_mark()),
        ord("}"): lambda self: self._push({}),
        ord("s"): lambda self: self._set_items([self._pop(), self._pop()][::-1]),
        ord("u"): lambda self: self._set_items(self._pop_to_mark()),
        0x8F: lambda self: self._push(set()),
        0x90: _add_items,
        0x91: _frozenset,
        ord("c"): lambda self: self._global(self._line(), self._line()),
        0x93: _stack_global,
        ord("R"): _reduce,
        0x81: _reduce,
        0x92: _new_object_with_keywords,
        ord("b"): _build,
        ord("Q"): _persistent_id,
        ord("q"): lambda self: self._memoize(self._number(self._U1)),
        ord("r"): lambda self: self._memoize(self._number(self._U4)),
        0x94: lambda self: self._memoize(len(self._memo)),
        ord("h"): lambda self: self._recall(self._number(self._U1)),
        ord("j"): lambda self: self._recall(self._number(self._U4)),
    }

    @staticmethod
    def _check_protocol(version: int) -> None:
        if not 2 <= version <= 5:
            raise PickleError(f"protocol {version} is not supported; supported: 2 to 5")


def _check_keys(keys: list[Any]) -> None:
    """Check that keys are texts, numbers, objects or flat tuples of these, which are hashed and compared fast."""
    for key in keys:
        items = key if type(key) is tuple else (key,)
        if len(items) > _MAX_KEY_ITEMS or not all(map(_is_simple_key, items)):
            raise PickleError("a key is not a text, a small integer or a tuple of these")


def _is_simple_key(key: Any) -> bool:
    if type(key) is int:
        return abs(key) < _MAX_INTEGER_KEY
    return key is None or type(key) in (str, bytes, bool, InertObject)
