"""Open a file written by `torch.save` lazily and safely: tensors are mapped, names are never imported.

The file is a zip archive of a pickle and one uncompressed member per storage, so a storage is a range of its bytes.
What the pickle may say is told in `safe_pickle`, what the content means by the sources.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import torch

from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.safe_pickle import SafeUnpickler, Storage

# Whatever a damaged or hostile pickle makes the unpickler trip over.
_DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, TypeError, ValueError, AttributeError, KeyError, IndexError,
    OverflowError, RuntimeError, struct.error, NotImplementedError, MemoryError,
)  # fmt: skip
_LOCAL_HEADER_BYTES = 30


def read_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, tensors mapped from disk (read-only use intended).

    Raises:
        WeightsError: The file is missing, damaged, truncated, or in the format of torch before 1.6.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is no file of torch.save, or is truncated ({size} bytes)")
    whole = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size))
    with path.open("rb") as stream:
        return _read(stream, whole, str(path))


def read_torch_bytes(content: bytes, name: str) -> Any:
    """The same for a file that lies within another one; `name` is used in messages."""
    whole = torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
    return _read(io.BytesIO(content), whole, name)


def read_pickle(path: Path, extra: frozenset[str]) -> Any:
    """A plain pickle, the names in `extra` welcome as inert records.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    try:
        with path.open("rb") as stream:
            return SafeUnpickler(stream, extra=extra).load()
    except (OSError, *_DAMAGE) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _read(stream: Any, whole: torch.UntypedStorage, name: str) -> Any:
    try:
        with zipfile.ZipFile(stream) as archive:
            return _Archive(archive, stream, whole).load()
    except _DAMAGE as error:
        raise WeightsError(f"{name} is damaged or not a checkpoint: {type(error).__name__}: {error}") from error


class _Archive:
    """The zip archive of one file and the mapping of its bytes."""

    def __init__(self, archive: zipfile.ZipFile, stream: Any, whole: torch.UntypedStorage) -> None:
        self._archive, self._stream, self._whole = archive, stream, whole
        self._members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self._members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("there is no data.pkl in the archive")
        self._pickle = pickles[0]
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, torch.UntypedStorage] = {}

    def load(self) -> Any:
        order = self._root + "byteorder"
        if order in self._members and self._archive.read(order).decode() != sys.byteorder:
            raise pickle.UnpicklingError("the file was written on a machine of another byte order")
        content = io.BytesIO(self._archive.read(self._pickle))
        return SafeUnpickler(content, self._storage).load()

    def _storage(self, pid: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        """The mapped storage a pickle refers to, after checking its size against the archive."""
        kind, storage, key, _, numel = pid
        if kind != "storage" or not isinstance(storage, Storage) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"an unknown reference {kind!r}")
        info = self._members[f"{self._root}data/{key}"]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != int(numel) * storage.dtype.itemsize:
            raise pickle.UnpicklingError(
                f"storage {key} has {info.file_size} bytes, expected {int(numel) * storage.dtype.itemsize}"
            )
        if key not in self._storages:
            self._storages[key] = self._slice(info)
        return self._storages[key], storage.dtype

    def _slice(self, info: zipfile.ZipInfo) -> torch.UntypedStorage:
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        if start + info.file_size > self._whole.nbytes():
            raise pickle.UnpicklingError("a storage reaches beyond the end of the file")
        return self._whole[start : start + info.file_size]
