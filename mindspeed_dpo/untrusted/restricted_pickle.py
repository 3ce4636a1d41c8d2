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
from mindspeed_dpo.untrusted.pickle_bytes import PickleBytes
from mindspeed_dpo.untrusted.pickle_names import SETS, Constructor, InertName, InertObject, PickleError, resolve_name
from mindspeed_dpo.untrusted.pickle_stack import PickleStack, check_keys
from mindspeed_dpo.untrusted.text_files import read_bytes

MAX_PICKLE_BYTES = 1 << 28
"""Limit for a pickle without its tensors; those of the largest checkpoints take some tens of megabytes."""
_MAX_NAMES = 10_000
_MAX_INTEGER_BYTES = 64
_STOP = ord(".")

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
    """The state of one run: position in the pickle, stack and names."""

    def __init__(self, data: bytes, allowed_names: frozenset[str], load_storage: LoadStorage | None) -> None:
        self._bytes, self._stack = PickleBytes(data), PickleStack()
        self._allowed_names, self._load_storage = allowed_names, load_storage
        self._names: dict[str, Any] = {}
        # Calls may copy what is already built; all copies together are bounded by the size of the pickle.
        self._copies_left = len(data) + 1000

    def run(self) -> Any:
        """Interpret the instructions up to STOP and return the value on the stack."""
        while (code := self._bytes.instruction()) != _STOP:
            instruction = self._INSTRUCTIONS.get(code)
            if instruction is None:
                raise PickleError(f"instruction {code:#04x} at byte {self._bytes.position - 1} is not supported")
            instruction(self)
        return self._stack.pop()

    def _long(self, num_bytes: int) -> None:
        if not 0 <= num_bytes <= _MAX_INTEGER_BYTES:
            raise PickleError(f"an integer has {num_bytes} bytes")
        self._stack.push(int.from_bytes(self._bytes.take(num_bytes), "little", signed=True))

    def _text(self, num_bytes: int) -> None:
        self._stack.push(self._bytes.decoded(self._bytes.take(num_bytes)))

    def _legacy_string(self, num_bytes: int) -> None:
        """A string of Python 2: text where it is UTF-8."""
        if num_bytes < 0:
            raise PickleError("a string has a negative length")
        self._stack.push(self._bytes.decoded(self._bytes.take(num_bytes)))

    def _global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a name is not a text")
        full = f"{module[:500]}.{name[:500]}"
        if full not in self._names:
            if len(self._names) >= _MAX_NAMES:
                raise PickleError(f"it mentions more than {_MAX_NAMES} names")
            self._names[full] = resolve_name(full, self._allowed_names)
        self._stack.push(self._names[full])

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._global(module, name)

    def _call(self, function: Any, args: Any) -> None:
        """Replace a call, of a function or a class, by its plain result or by a record of it."""
        if not isinstance(args, tuple):
            raise PickleError("the arguments of a call are not a tuple")
        if isinstance(function, (InertName, InertObject)):
            self._stack.push(InertObject(function.name if isinstance(function, InertObject) else function, args))
            return
        if not isinstance(function, Constructor):
            raise PickleError(f"it calls a value of type {type(function).__name__}")
        self._copies_left -= sum(len(arg) for arg in args if isinstance(arg, (list, tuple)))
        if self._copies_left < 0:
            raise PickleError("it copies its values again and again")
        if function in SETS.values():
            check_keys([item for arg in args if isinstance(arg, (list, tuple)) for item in arg])
        try:
            self._stack.push(function.build(*args))
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise PickleError(str(error)[:300] or type(error).__name__) from error

    def _reduce(self) -> None:
        args, function = self._stack.pop(), self._stack.pop()
        self._call(function, args)

    def _new_object_with_keywords(self) -> None:
        self._stack.pop()
        self._reduce()

    def _build(self) -> None:
        """Set the state of an object; attributes of dictionaries and tensors have no meaning here."""
        state, target = self._stack.pop(), self._stack.top()
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
        self._stack.push(self._load_storage(self._stack.pop()))

    _U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<I", "<Q"))
    _I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
    _INSTRUCTIONS: ClassVar[dict[int, Callable[[_Interpreter], object]]] = {
        0x80: lambda self: self._check_protocol(self._bytes.number(self._U1)),
        0x95: lambda self: self._bytes.take(8),
        ord("("): lambda self: self._stack.mark(),
        ord("0"): lambda self: self._stack.drop(),
        ord("1"): lambda self: self._stack.pop_to_mark(),
        ord("2"): lambda self: self._stack.push(self._stack.top()),
        ord("N"): lambda self: self._stack.push(None),
        0x88: lambda self: self._stack.push(True),
        0x89: lambda self: self._stack.push(False),
        ord("J"): lambda self: self._stack.push(self._bytes.number(self._I4)),
        ord("K"): lambda self: self._stack.push(self._bytes.number(self._U1)),
        ord("M"): lambda self: self._stack.push(self._bytes.number(self._U2)),
        0x8A: lambda self: self._long(self._bytes.number(self._U1)),
        0x8B: lambda self: self._long(self._bytes.number(self._I4)),
        ord("G"): lambda self: self._stack.push(self._bytes.number(self._F8)),
        ord("X"): lambda self: self._text(self._bytes.number(self._U4)),
        0x8C: lambda self: self._text(self._bytes.number(self._U1)),
        0x8D: lambda self: self._text(self._bytes.number(self._U8)),
        ord("U"): lambda self: self._legacy_string(self._bytes.number(self._U1)),
        ord("T"): lambda self: self._legacy_string(self._bytes.number(self._I4)),
        ord("C"): lambda self: self._stack.push(self._bytes.take(self._bytes.number(self._U1))),
        ord("B"): lambda self: self._stack.push(self._bytes.take(self._bytes.number(self._U4))),
        0x8E: lambda self: self._stack.push(self._bytes.take(self._bytes.number(self._U8))),
        0x96: lambda self: self._stack.push(self._bytes.take(self._bytes.number(self._U8))),
        ord(")"): lambda self: self._stack.push(()),
        0x85: lambda self: self._stack.push_tuple(1),
        0x86: lambda self: self._stack.push_tuple(2),
        0x87: lambda self: self._stack.push_tuple(3),
        ord("t"): lambda self: self._stack.push(tuple(self._stack.pop_to_mark())),
        ord("]"): lambda self: self._stack.push([]),
        ord("l"): lambda self: self._stack.push(self._stack.pop_to_mark()),
        ord("a"): lambda self: self._stack.append([self._stack.pop()]),
        ord("e"): lambda self: self._stack.append(self._stack.pop_to_mark()),
        ord("}"): lambda self: self._stack.push({}),
        ord("s"): lambda self: self._stack.set_items([self._stack.pop(), self._stack.pop()][::-1]),
        ord("u"): lambda self: self._stack.set_items(self._stack.pop_to_mark()),
        0x8F: lambda self: self._stack.push(set()),
        0x90: lambda self: self._stack.add_items(),
        0x91: lambda self: self._stack.push_frozenset(),
        ord("c"): lambda self: self._global(self._bytes.line(), self._bytes.line()),
        0x93: _stack_global,
        ord("R"): _reduce,
        0x81: _reduce,
        0x92: _new_object_with_keywords,
        ord("b"): _build,
        ord("Q"): _persistent_id,
        ord("q"): lambda self: self._stack.memoize(self._bytes.number(self._U1)),
        ord("r"): lambda self: self._stack.memoize(self._bytes.number(self._U4)),
        0x94: lambda self: self._stack.memoize(),
        ord("h"): lambda self: self._stack.recall(self._bytes.number(self._U1)),
        ord("j"): lambda self: self._stack.recall(self._bytes.number(self._U4)),
    }

    @staticmethod
    def _check_protocol(version: int) -> None:
        if not 2 <= version <= 5:
            raise PickleError(f"protocol {version} is not supported; supported: 2 to 5")
