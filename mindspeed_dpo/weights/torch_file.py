"""Reads files of `torch.save` lazily and safely: tensors are memory-mapped, and names in the pickle are not imported.

Such a file is a zip archive of a pickle and one uncompressed member per storage, so a storage is a range of its bytes.
Which names a pickle may use is defined in `safe_pickle`; the meaning of the content is left to the sources.
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
from mindspeed_dpo.weights.safe_pickle import SafeUnpickler, StorageType

# Every error that a damaged or malicious pickle can cause in the unpickler.
_DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, TypeError, ValueError, AttributeError, KeyError, IndexError,
    OverflowError, RuntimeError, struct.error, NotImplementedError, MemoryError,
)  # fmt: skip
_LOCAL_HEADER_BYTES = 30


def read_torch_file(path: Path) -> Any:
    """Read a file of `torch.save`; its tensors are mapped from disk and must not be written to.

    Raises:
        WeightsError: The file is missing, damaged, truncated, or in the format of torch before 1.6.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist")
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} is not a file of torch.save, or is truncated ({size} bytes)")
    mapped = cast(torch.UntypedStorage, torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size))
    with path.open("rb") as stream:
        return _read(stream, mapped, str(path))


def read_torch_bytes(content: bytes, name: str) -> Any:
    """Read the bytes of a `torch.save` file that is part of another file; `name` is used in messages."""
    copied = torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
    return _read(io.BytesIO(content), copied, name)


def read_pickle(path: Path, allowed_names: frozenset[str]) -> Any:
    """Read a plain pickle, with inert records in place of the classes in `allowed_names`.

    Raises:
        WeightsError: The file is missing or damaged.
    """
    try:
        with path.open("rb") as stream:
            return SafeUnpickler(stream, allowed_names=allowed_names).load()
    except (OSError, *_DAMAGE) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _read(stream: Any, file_bytes: torch.UntypedStorage, name: str) -> Any:
    try:
        with zipfile.ZipFile(stream) as archive:
            return _Archive(archive, stream, file_bytes).load()
    except _DAMAGE as error:
        raise WeightsError(f"{name} is damaged or not a checkpoint: {type(error).__name__}: {error}") from error


class _Archive:
    """The zip archive of one file, and its bytes as a storage."""

    def __init__(self, archive: zipfile.ZipFile, stream: Any, file_bytes: torch.UntypedStorage) -> None:
        self._archive, self._stream, self._file_bytes = archive, stream, file_bytes
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
        return SafeUnpickler(content, self._load_storage).load()

    def _load_storage(self, pid: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        """The mapped storage that a pickle refers to, after checking its size against the archive."""
        tag, storage_type, key, _, numel = pid
        if tag != "storage" or not isinstance(storage_type, StorageType) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"an unknown reference {tag!r}")
        info = self._members[f"{self._root}data/{key}"]
        num_bytes = int(numel) * storage_type.dtype.itemsize
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != num_bytes:
            raise pickle.UnpicklingError(f"storage {key} has {info.file_size} bytes, expected {num_bytes}")
        if key not in self._storages:
            self._storages[key] = self._member_bytes(info)
        return self._storages[key], storage_type.dtype

    def _member_bytes(self, info: zipfile.ZipInfo) -> torch.UntypedStorage:
        self._stream.seek(info.header_offset)
        header = self._stream.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        if start + info.file_size > self._file_bytes.nbytes():
            raise pickle.UnpicklingError("a storage extends beyond the end of the file")
        return self._file_bytes[start : start + info.file_size]
