"""Writes a file that `torch.load` reads tensor by tensor, so that a file of any size needs the memory of one part.

The format is that of `torch.save`: an uncompressed zip archive of one member for each storage and a pickle that refers
to them. `torch.save` writes the pickle first and therefore needs all tensors at once; here it is the last member, which
readers find by its name. Reading is left to `untrusted.torch_archive`.
"""

from __future__ import annotations

import collections
import io
import itertools
import struct
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import Pickler
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.model_sizes import Shape

_ROOT = "model_optim_rng/"
_PROTOCOL = 2
_ALIGNMENT = 64
_LOCAL_HEADER_BYTES, _ZIP64_EXTRA_BYTES = 30, 20
_PADDING_ID = 0x4246
_FORMAT_VERSION = b"3\n"
_STORAGE_TYPES: dict[torch.dtype, type] = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.int64: torch.LongStorage,
    torch.int32: torch.IntStorage,
    torch.int16: torch.ShortStorage,
    torch.int8: torch.CharStorage,
    torch.uint8: torch.ByteStorage,
    torch.bool: torch.BoolStorage,
}


@dataclass(frozen=True)
class StoredStorage:
    """The values of a tensor in the archive.

    Attributes:
        key: The name of its member.
        dtype: Data type of the values.
        num_values: Their number.
    """

    key: str
    dtype: torch.dtype
    num_values: int


@dataclass(frozen=True)
class WrittenTensor:
    """Stands for a tensor in the content of the file, such as `WrittenTensor(storage, (4, 8))`.

    Attributes:
        storage: Its values.
        shape: Its shape; the values are in row-major order.
    """

    storage: StoredStorage
    shape: Shape

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return self.storage.num_values * self.storage.dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the call by which readers rebuild the tensor."""
        strides = torch.empty(self.shape, device="meta").stride()
        arguments: tuple[Any, ...] = (self.storage, 0, self.shape, strides, False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


class TorchArchiveWriter:
    """A file that is being written; a context manager.

    `with TorchArchiveWriter(path) as archive: archive.finish({"model": {"w": archive.add((2, 3), [tensor])}})`
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._num_storages = 0

    def __enter__(self) -> TorchArchiveWriter:
        """Create the file."""
        self._stream = self.path.open("wb")
        self._archive = zipfile.ZipFile(self._stream, "w", zipfile.ZIP_STORED, allowZip64=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; after an error it is incomplete."""
        try:
            if kind is None:
                self._archive.close()
            else:
                # An archive that is not closed would write its directory when it is garbage-collected.
                self._archive.fp = None
        finally:
            self._stream.close()

    def add(self, shape: Shape, parts: Iterable[Tensor]) -> WrittenTensor:
        """Write a tensor.

        Args:
            shape: Its shape.
            parts: Consecutive parts of its weights in row-major order, of any shape and one dtype; each is written
                before the next is requested.

        Raises:
            WeightsError: The parts have different data types, one that files cannot hold, or another number of values.
        """
        rest = iter(parts)
        first = next(rest)
        storage = StoredStorage(str(self._num_storages), first.dtype, torch.Size(shape).numel())
        if first.dtype not in _STORAGE_TYPES:
            raise WeightsError(f"rank files cannot hold {first.dtype}; give --params-dtype")
        num_values = 0
        with self._archive.open(self._member(storage), "w") as member:
            for part in itertools.chain([first], rest):
                if part.dtype != storage.dtype:
                    raise WeightsError(
                        f"experts of one tensor have different data types, {storage.dtype} and {part.dtype}; give "
                        "--params-dtype"
                    )
                member.write(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
                num_values += part.numel()
        if num_values != storage.num_values:
            raise WeightsError(f"a tensor of {list(shape)} was given {num_values} values")
        self._num_storages += 1
        return WrittenTensor(storage, shape)

    def finish(self, content: object) -> None:
        """Write the content of the file: plain values in which each tensor is a `WrittenTensor` of this file."""
        buffer = io.BytesIO()
        _Pickler(buffer, _PROTOCOL).dump(content)
        self._archive.writestr(_ROOT + "data.pkl", buffer.getvalue())
        self._archive.writestr(_ROOT + "byteorder", sys.byteorder)
        self._archive.writestr(_ROOT + "version", _FORMAT_VERSION)

    def _member(self, storage: StoredStorage) -> zipfile.ZipInfo:
        """The header of a storage, padded so that its values are aligned, as maps of the file require."""
        info = zipfile.ZipInfo(f"{_ROOT}data/{storage.key}")
        info.file_size = storage.num_values * storage.dtype.itemsize
        is_large = info.file_size * 1.05 > zipfile.ZIP64_LIMIT
        start = self._stream.tell() + _LOCAL_HEADER_BYTES + len(info.filename) + (_ZIP64_EXTRA_BYTES if is_large else 0)
        padding = -(start + 4) % _ALIGNMENT
        info.extra = struct.pack("<HH", _PADDING_ID, padding) + b"Z" * padding
        return info


class _Pickler(Pickler):
    """Writes references to storages as torch does."""

    def persistent_id(self, value: Any) -> tuple[object, ...] | None:
        """The reference to a storage; None for other values."""
        if not isinstance(value, StoredStorage):
            return None
        return "storage", _STORAGE_TYPES[value.dtype], value.key, "cpu", value.num_values
