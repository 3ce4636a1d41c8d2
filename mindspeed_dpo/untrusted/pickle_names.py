"""The meaning of the names in a pickle: functions that build plain data, dtypes, or an inert record of the name.

No name is imported. Callers decide where inert records are acceptable (run arguments hold enums and tokenizers of other
packages) and reject them elsewhere with `reject_foreign_objects`.
"""

from __future__ import annotations

import argparse
import collections
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.untrusted.errors import MalformedDataError


class PickleError(ValueError):
    """A pickle that is damaged or not allowed; readers add the name of the file."""


@dataclass(frozen=True)
class InertName:
    """A name that a pickle mentions and that means nothing here.

    Attributes:
        qualified_name: Module and name, such as "posix.system".
        is_allowed: Whether ordinary checkpoints contain it.
    """

    qualified_name: str
    is_allowed: bool


@dataclass(eq=False)
class InertObject:
    """Data in place of an object of an unknown class, or of the result of an unknown function.

    Attributes:
        name: The class or function.
        args: The arguments that the pickle passes to it.
        state: The state that the pickle sets.
    """

    name: InertName
    args: tuple[Any, ...]
    state: Any = field(default=None)


@dataclass(frozen=True)
class StorageType:
    """A storage class named in a pickle, which stands for a dtype."""

    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Constructor:
    """A function for a name that a pickle may call."""

    build: Callable[..., Any]


def _rebuild_tensor(
    storage: tuple[torch.UntypedStorage, torch.dtype], offset: int, size: Any, stride: Any, *_: Any
) -> Tensor:
    """A view of a storage in the given size; an error if it would extend beyond the storage or overlap itself."""
    if not (isinstance(storage, tuple) and len(storage) == 2 and isinstance(storage[0], torch.UntypedStorage)):
        raise PickleError("a tensor is built from something that is not a storage")
    untyped, dtype = storage
    sizes, strides = _dims(size), _dims(stride)
    if len(sizes) != len(strides) or not _is_size(offset):
        raise PickleError(f"a tensor has size {sizes}, stride {strides} and offset {str(offset)[:40]}")
    last = offset + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) if 0 not in sizes else -1
    num_bytes = math.prod(sizes) * dtype.itemsize
    if max((last + 1) * dtype.itemsize, num_bytes) > untyped.nbytes():
        raise PickleError(f"a tensor of size {sizes} does not fit its storage of {untyped.nbytes()} bytes")
    return torch.empty(0, dtype=dtype).set_(untyped, offset, sizes, strides)


def _dims(values: Any) -> list[int]:
    if not isinstance(values, (tuple, list)) or len(values) > 64 or not all(map(_is_size, values)):
        raise PickleError("a tensor has a size or stride that is not a list of sizes")
    return list(values)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _rebuild_parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise PickleError("a parameter is built from something that is not a tensor")
    return data


def _rebuild_from_type(rebuild: Any, _: Any, args: Any, *__: Any) -> Any:
    if rebuild not in (_TENSOR, _PARAMETER) or not isinstance(args, tuple):
        raise PickleError("a tensor subclass is rebuilt by an unknown function")
    return rebuild.build(*args)


def _bytes_of(value: Any = b"") -> bytes:
    if not isinstance(value, bytes):
        raise PickleError("a bytearray is built from something that is not bytes")
    return value


def _ordered_dict(*pairs: Any) -> dict[Any, Any]:
    if pairs:
        raise PickleError("a dictionary is built from the arguments of a call")
    return collections.OrderedDict()


def _default_dict(factory: Any = None) -> Any:
    if factory is not None and not isinstance(factory, Constructor):
        name = factory.qualified_name if isinstance(factory, InertName) else type(factory).__name__
        raise PickleError(f"the default of a dictionary names {name}, which is not data")
    return {}


def _sequence(kind: Callable[[Any], Any]) -> Callable[..., Any]:
    """The constructor of a builtin collection from a list or tuple of the pickle."""

    def build(values: Any = ()) -> Any:
        if not isinstance(values, (list, tuple)):
            raise PickleError("a collection is built from something that is not a list")
        return kind(values)

    return build


_TENSOR, _PARAMETER = Constructor(_rebuild_tensor), Constructor(_rebuild_parameter)
_COMPLEX = Constructor(lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary)))
_BUILTINS: dict[str, Constructor] = {
    "bytearray": Constructor(_bytes_of), "complex": _COMPLEX, "list": Constructor(_sequence(list)),
    "tuple": Constructor(_sequence(tuple)), "dict": Constructor(_ordered_dict),
}  # fmt: skip
SETS = {kind: Constructor(kind) for kind in (set, frozenset)}
"""Sets, whose items the machine checks before it hashes them."""
_STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip
_NAMES: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _TENSOR,
    "torch._utils._rebuild_tensor_v2": _TENSOR,
    "torch._utils._rebuild_parameter": _PARAMETER,
    "torch._utils._rebuild_parameter_with_state": _PARAMETER,
    "torch._tensor._rebuild_from_type_v2": Constructor(_rebuild_from_type),
    "torch.Size": _BUILTINS["tuple"],
    "collections.OrderedDict": Constructor(_ordered_dict),
    "collections.defaultdict": Constructor(_default_dict),
    "argparse.Namespace": Constructor(argparse.Namespace),
    "types.SimpleNamespace": Constructor(SimpleNamespace),
    **{f"{module}.{name}": build for module in ("builtins", "__builtin__") for name, build in _BUILTINS.items()},
    **{f"{module}.{kind.__name__}": SETS[kind] for module in ("builtins", "__builtin__") for kind in SETS},
    **{
        f"{module}.{name}": StorageType(kind)
        for module in ("torch", "torch.storage")
        for name, kind in _STORAGES.items()
    },
    **{f"torch.{name}": kind for name, kind in vars(torch).items() if isinstance(kind, torch.dtype)},
}
# Not used here, but ordinary checkpoints hold them (random-number states, devices): inert, and allowed everywhere.
_ALLOWED_NAMES = frozenset(
    {"_codecs.encode", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter"}
    | {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
    | {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
    | {"numpy.ndarray", "numpy.dtype"}
)


def resolve_name(full: str, allowed_names: frozenset[str]) -> Any:
    """The meaning of a qualified name; an `InertName` for one that is not in the tables. Nothing is imported."""
    if full in _NAMES:
        return _NAMES[full]
    return InertName(full, full in _ALLOWED_NAMES or full in allowed_names)


def reject_foreign_objects(value: Any, file: object, part: str, inert_modules: tuple[str, ...] = ()) -> None:
    """Check that a value holds plain data and tensors only.

    Args:
        value: What was read.
        file: Its file, for the message.
        part: What it is, for the message.
        inert_modules: Packages, with a final dot, whose objects may be in the value; they are not used, nor imported.

    Raises:
        MalformedDataError: It holds an object of another class; the message names class and file.
    """
    for name in _foreign_names(value):
        if name.startswith(inert_modules):
            continue
        raise MalformedDataError(
            f"{file}: {part} names {name}, which is not data; the file is not trusted and was not read"
        )


def _foreign_names(value: Any) -> Iterator[str]:
    """Names of the objects within a value, at any depth, that are not allowed everywhere."""
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (InertObject, InertName)):
            name = item.name if isinstance(item, InertObject) else item
            if not name.is_allowed:
                yield name.qualified_name
            stack += [item.args, item.state] if isinstance(item, InertObject) else []
        elif isinstance(item, Constructor):
            yield "a function instead of a value"
        elif isinstance(item, Mapping):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack += item
        elif isinstance(item, (argparse.Namespace, SimpleNamespace)):
            stack += vars(item).values()
