"""Reads a pickle without executing anything that it names.

A pickle names the callables it needs; here no name is ever imported. The few names that checkpoints need are listed in
a table and map to functions that only build plain data. Every other name becomes an inert object that records the name.
Callers decide where inert objects are acceptable (run arguments hold enums and tokenizers of other packages) and reject
them elsewhere with `reject_foreign_objects`. Locating tensors in a file is left to `torch_file`.
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


class InertObject:
    """Data in place of an object of an unknown class: its name, arguments and state. Accepts any call, does nothing."""

    qualified_name: ClassVar[str] = ""
    is_allowed: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args

    def __new__(cls, *args: Any, **kwargs: Any) -> InertObject:
        """Store the arguments here, because pickle does not always call `__init__`."""
        instance = super().__new__(cls)
        instance.args = args
        instance.state = None
        return instance

    args: tuple[Any, ...]
    state: Any

    def __call__(self, *args: Any, **kwargs: Any) -> InertObject:
        """Replace a callable that is itself the result of a call."""
        return type(self)(*args)

    def __setstate__(self, state: Any) -> None:
        """Store the state without interpreting it."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item of a mapping of an unknown class."""

    def append(self, value: Any) -> None:
        """Ignore an item of a list of an unknown class."""

    def extend(self, values: Any) -> None:
        """Ignore items of a list of an unknown class."""


class StorageType(SimpleNamespace):
    """A storage class named in a pickle, which stands for a dtype."""

    dtype: torch.dtype


def _rebuild_tensor(
    storage: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: Any, stride: Any, *_: Any
) -> Tensor:
    """A view of a storage in the given size; an error if it would extend beyond the storage."""
    untyped, dtype = storage
    sizes, strides, offset = [int(n) for n in size], [int(n) for n in stride], int(offset)
    if len(sizes) != len(strides) or min([offset, *sizes, *strides]) < 0:
        raise pickle.UnpicklingError(f"a tensor has size {sizes}, stride {strides} and offset {offset}")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if 0 not in sizes else -1
    if (last + 1) * dtype.itemsize > untyped.nbytes():
        raise pickle.UnpicklingError(f"a tensor of size {sizes} does not fit its storage of {untyped.nbytes()} bytes")
    return torch.empty(0, dtype=dtype).set_(untyped, offset, sizes, strides)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _rebuild_from_type(rebuild: Callable[..., Any], _: Any, args: tuple[Any, ...], *__: Any) -> Any:
    if rebuild not in (_rebuild_tensor, _rebuild_parameter):
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
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    **{f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in _BUILTINS},
}

# Not used here, but ordinary checkpoints hold them (random-number states, devices): inert, and allowed everywhere.
_ALLOWED_NAMES = frozenset(
    {"_codecs.encode", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"}
    | {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
    | {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
    | {"numpy.ndarray", "numpy.dtype"}
)


class SafeUnpickler(pickle.Unpickler):
    """An unpickler limited to the names in the tables above and those in `allowed_names`."""

    def __init__(
        self,
        stream: io.BufferedIOBase | io.BytesIO,
        load_storage: Callable[[Any], tuple[torch.UntypedStorage, torch.dtype]] | None = None,
        allowed_names: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(stream, encoding="utf-8")
        self._load_storage = load_storage
        self._allowed_names = _ALLOWED_NAMES | allowed_names
        self._classes: dict[str, Any] = {
            # New classes for each file, because a pickle can set attributes on a class.
            "argparse.Namespace": type("Namespace", (argparse.Namespace,), {}),
            "types.SimpleNamespace": type("SimpleNamespace", (SimpleNamespace,), {}),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the tables; nothing is imported."""
        full = f"{module}.{name}"
        if full in _CALLABLES:
            return _CALLABLES[full]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return StorageType(dtype=_STORAGES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if full not in self._classes:
            is_allowed = full in self._allowed_names
            self._classes[full] = type(name, (InertObject,), {"qualified_name": full, "is_allowed": is_allowed})
        return self._classes[full]

    def persistent_load(self, pid: Any) -> Any:
        """Resolve a reference to a storage by the file that holds it.

        Raises:
            UnpicklingError: The pickle is not part of a file of storages.
        """
        if self._load_storage is None:
            raise pickle.UnpicklingError("an unexpected reference to a tensor storage")
        return self._load_storage(pid)


def reject_foreign_objects(value: Any, file: object, part: str) -> None:
    """Check that a value holds plain data and tensors only.

    Raises:
        WeightsError: It holds an object of another class; the message names class and file.
    """
    for name in _foreign_names(value):
        raise WeightsError(f"{file}: {part} names {name}, which is not data; the file is not trusted and was not read")


def _foreign_names(value: Any) -> Iterator[str]:
    """Names of the objects within a value, at any depth, that are not allowed everywhere."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, InertObject) or (isinstance(item, type) and issubclass(item, InertObject)):
            if not item.is_allowed:
                yield item.qualified_name
        elif isinstance(item, Mapping):
            stack += [*item.keys(), *item.values(), getattr(item, "default_factory", None)]
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack += item
        elif isinstance(item, (argparse.Namespace, SimpleNamespace)):
            stack += vars(item).values()
