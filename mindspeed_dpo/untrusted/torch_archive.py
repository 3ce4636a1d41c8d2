"""Files of `torch.save`, read lazily: tensors are memory-mapped, and names in the pickle are not imported.

Such a file is a zip archive of a pickle and one member per storage, all uncompressed, so a storage is a range of its
bytes. A checkpoint's `.distcp` file holds several of them one after the other.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from mindspeed_dpo.storage.digest_verification import BlockVerifier
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.untrusted.errors import MalformedDataError, damage_reported
from mindspeed_dpo.untrusted.pickle_names import PickleError, StorageType
from mindspeed_dpo.untrusted.restricted_pickle import MAX_PICKLE_BYTES, parse_pickle

# What zipfile raises for a damaged archive, and torch for a storage that does not fit.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, PickleError, ValueError, KeyError, IndexError, OverflowError,
    EOFError, RuntimeError, NotImplementedError, OSError,
)  # fmt: skip
_LOCAL_HEADER_BYTES = 30


def read_torch_file(path: Path) -> Any:
    """Read a file of `torch.save`; its tensors are mapped from disk and must not be written to.

    Raises:
        MalformedDataError: The file is missing, damaged, truncated, or in the format of torch before 1.6.
    """
    if not path.is_file():
        raise MalformedDataError(f"{path} does not exist")
    size = path.stat().st_size
    with _damage_reported(str(path)):
        is_archive = zipfile.is_zipfile(path)
    if not is_archive:
        raise MalformedDataError(f"{path} is not a file of torch.save, or is truncated ({size} bytes)")
    return MappedFile(path).read(0, size)


class MappedFile:
    """A file of one or several archives of `torch.save`, memory-mapped.

    Attributes:
        path: Path of the file.
        num_bytes: Its size.
    """

    def __init__(self, path: Path, digest: FileDigest | None = None) -> None:
        """Map a file.

        Args:
            path: Path of the file.
            digest: What its bytes are compared with as they are read; None compares nothing.
        """
        self.path, self.num_bytes = path, path.stat().st_size
        self._verifier = BlockVerifier(path, digest, self.num_bytes) if digest is not None else None
        with _damage_reported(str(path)):
            storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=self.num_bytes)
        self._bytes = cast(torch.UntypedStorage, storage)

    def read(self, offset: int, num_bytes: int) -> Any:
        """Read the archive in a range of the file; its tensors are mapped and must not be written to.

        Raises:
            MalformedDataError: The range is not within the file, or the archive in it is damaged.
        """
        if not 0 <= offset <= offset + num_bytes <= self.num_bytes:
            raise MalformedDataError(f"{self.path} has {self.num_bytes} bytes, but {offset + num_bytes} are needed")
        if self._verifier is not None:
            with damage_reported():
                self._verifier.check(offset, num_bytes, self._view)
        with (
            _damage_reported(f"{self.path}"),
            self.path.open("rb") as stream,
            zipfile.ZipFile(cast(BinaryIO, _FileRange(stream, offset, num_bytes))) as archive,
        ):
            return _Archive(archive, self._bytes[offset : offset + num_bytes]).load()

    def _view(self, start: int, num_bytes: int) -> memoryview:
        """The mapped bytes of a range."""
        bytes_read = torch.empty(0, dtype=torch.uint8).set_(self._bytes, start, (num_bytes,), (1,))
        return bytes_read.numpy().data


@contextmanager
def _damage_reported(name: str) -> Iterator[None]:
    try:
        yield
    except MalformedDataError:
        raise
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:300]
        raise MalformedDataError(f"{name} is damaged or not a checkpoint: {type(error).__name__}: {reason}") from error


class _FileRange(io.RawIOBase):
    """A range of a file as a seekable file."""

    def __init__(self, stream: BinaryIO, offset: int, num_bytes: int) -> None:
        self._stream, self._offset, self._num_bytes, self._position = stream, offset, num_bytes, 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Any position can be read."""
        return True

    def tell(self) -> int:
        """The position within the range."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, which is at least 0.

        Raises:
            ValueError: The position is negative.
        """
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or all up to the end of the range."""
        available = max(0, self._num_bytes - self._position)
        size = available if size is None or size < 0 else min(size, available)
        self._stream.seek(self._offset + self._position)
        content = self._stream.read(size)
        self._position += len(content)
        return content


class _Archive:
    """The zip archive of one `torch.save`, and its bytes as a storage."""

    def __init__(self, archive: zipfile.ZipFile, file_bytes: torch.UntypedStorage) -> None:
        self._archive, self._file_bytes = archive, file_bytes
        self._members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in self._members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise PickleError("there is no data.pkl in the archive")
        self._root = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, torch.UntypedStorage] = {}

    def load(self) -> Any:
        """Interpret the pickle.

        Raises:
            PickleError: A member is damaged, or the pickle asks for more than data.
        """
        order = self._root + "byteorder"
        if order in self._members and self._read(order) != sys.byteorder.encode():
            raise PickleError("the file was written on a machine of another byte order")
        return parse_pickle(self._read(self._root + "data.pkl"), load_storage=self._load_storage)

    def _read(self, name: str) -> bytes:
        """Read a small member; a compressed one could expand to any size, and torch writes none."""
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(
            MAX_PICKLE_BYTES, self._file_bytes.nbytes()
        ):
            raise PickleError(f"{name[:100]} is compressed or larger than the file")
        return self._archive.read(info)

    def _load_storage(self, reference: Any) -> tuple[torch.UntypedStorage, torch.dtype]:
        """The mapped storage that a pickle refers to, after checking its size against the archive."""
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise PickleError("an unknown reference")
        _, storage_type, key, _, numel = reference
        if not isinstance(storage_type, StorageType) or not isinstance(key, str) or type(numel) is not int:
            raise PickleError("a reference to a storage has values of other types")
        info = self._members.get(f"{self._root}data/{key}")
        if info is None:
            raise PickleError(f"storage {key[:40]} is not in the archive")
        num_bytes = numel * storage_type.dtype.itemsize
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != num_bytes:
            raise PickleError(f"storage {key[:40]} has {info.file_size} bytes, expected {num_bytes}")
        if key not in self._storages:
            self._storages[key] = self._member_bytes(info)
        return self._storages[key], storage_type.dtype

    def _member_bytes(self, info: zipfile.ZipInfo) -> torch.UntypedStorage:
        stream = cast(BinaryIO, self._archive.fp)
        stream.seek(info.header_offset)
        header = stream.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = struct.unpack("<HH", header[26:30])
        start = info.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        if start + info.file_size > self._file_bytes.nbytes():
            raise PickleError("a storage extends beyond the end of the file")
        return self._file_bytes[start : start + info.file_size]
