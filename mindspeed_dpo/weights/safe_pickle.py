"""Read a pickle without being able to run anything it names.

A pickle names the callables it wants; here no name is ever imported. The few that a checkpoint needs stand in a table
and lead to functions that can only build plain data; every other name becomes an inert placeholder that remembers what
it was called. Where a placeholder is tolerated (run arguments, which hold enums and tokenizers of foreign packages) is
for the caller to say, by `refuse_placeholders`. Where tensors lie in a file is told in `torch_file`.
"""

from __future__ import annotations

import argparse
import collections
import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mindspeed_dpo.weights.errors import WeightsError


class Inert:
    """Something a pickle named, kept as data: its name, its arguments and its state. Accepts anything, does nothing."""

    qualified_name: ClassVar[str] = ""
    tolerated: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        """Keep the arguments also where pickle does not call `__init__`."""
        made = super().__new__(cls)
        made.args = args
        made.state = None
        return made

    args: tuple[Any, ...]
    state: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        """Stand in for a callable that was itself the result of a call."""
        return type(self)(*args)

    def __setstate__(self, state: Any) -> None:
        """Keep the state unread."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop an item of a mapping of a foreign class."""

    def append(self, value: Any) -> None:
        """Drop an item of a list of a foreign class."""

    def extend(self, values: Any) -> None:
        """Drop items of a list of a foreign class."""


class Storage(SimpleNamespace):
    """The name of a storage class, which stands for a data type."""

    dtype: torch.dtype


def _tensor(storage: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view [size] of a storage, or an error where it would reach beyond it."""
    untyped, dtype = storage
    sizes, strides, offset = [int(n) for n in size], [int(n) for n in stride], int(offset)
    if len(sizes) != len(strides) or min([offset, *sizes, *strides]) < 0:
        raise pickle.UnpicklingError(f"a tensor has size {sizes}, stride {strides} and offset {offset}")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if 0 not in sizes else -1
    if (last + 1) * dtype.itemsize > untyped.nbytes():
        raise pickle.UnpicklingError(f"a tensor of size {sizes} does not fit its storage of {untyped.nbytes()} bytes")
    return torch.empty(0, dtype=dtype).set_(untyped, offset, sizes, strides)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _of_type(rebuild: Callable[..., Any], _: Any, args: tuple[Any, ...], *__: Any) -> Any:
    if rebuild not in (_tensor, _parameter):
        raise pickle.UnpicklingError("a tensor subclass is rebuilt by an unknown function")
    return rebuild(*args)


def _size(values: Any = ()) -> tuple[int, ...]:
    return tuple(values)


_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip

_BUILTINS = (dict, list, set, frozenset, tuple, bytearray, int, float, bool, complex)

_CALLABLES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": _size,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in _BUILTINS},
}

# Needed by nobody here, but honest checkpoints hold them (random-number states, devices): inert, and welcome anywhere.
_TOLERATED = frozenset(
    {"_codecs.encode", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"}
    | {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
    | {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
    | {"numpy.ndarray", "numpy.dtype"}
)


class SafeUnpickler(pickle.Unpickler):
    """An unpickler whose vocabulary is the tables above, and `extra` names given by the caller."""

    def __init__(
        self,
        stream: io.BufferedIOBase | io.BytesIO,
        load_storage: Callable[[Any], tuple[torch.UntypedStorage, torch.dtype]] | None = None,
        extra: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load_storage = load_storage
        self._extra = extra
        self._classes: dict[str, Any] = {
            # Fresh classes for each file: a pickle may set attributes on a class it was given.
            "argparse.Namespace": type("Namespace", (argparse.Namespace,), {}),
            "types.SimpleNamespace": type("SimpleNamespace", (SimpleNamespace,), {}),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Translate a name by the tables; nothing is imported."""
        full = f"{module}.{name}"
        if full in _CALLABLES:
            return _CALLABLES[full]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return Storage(dtype=_STORAGES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in self._classes:
            welcome = full in _TOLERATED or full in self._extra
            self._classes[full] = type(name, (Inert,), {"qualified_name": full, "tolerated": welcome})
        return self._classes[full]

    def persistent_load(self, pid: Any) -> Any:
        """Hand a reference to a storage to the file it lies in."""
        if self._load_storage is None:
            raise pickle.UnpicklingError("an unexpected reference to a tensor storage")
        return self._load_storage(pid)


def placeholders(value: Any) -> Iterator[str]:
    """Names of the foreign things within a value, however deeply nested."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Inert) or (isinstance(item, type) and issubclass(item, Inert)):
            if not item.tolerated:
                yield item.qualified_name
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values(), getattr(item, "default_factory", None)]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        elif isinstance(item, (argparse.Namespace, SimpleNamespace)):
            waiting += vars(item).values()


def refuse_placeholders(value: Any, file: object, part: str) -> None:
    """Stop where a value holds a foreign thing.

    Raises:
        WeightsError: With the name of the class and the file.
    """
    for name in placeholders(value):
        raise WeightsError(f"{file}: {part} names {name}, which is not data; the file is not trusted and was not read")
