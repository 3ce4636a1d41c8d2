"""torch's distributed checkpoints, as megatron-core writes them: tensors and objects in chunks spread over files.

The folder's `.metadata` is a pickle of records of torch.distributed. It and the chunks are read with
`restricted_pickle`; neither megatron-core nor torch.distributed is needed. Before anything is read, the metadata is
checked: chunks tile their tensor, and their bytes lie within the files and do not overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.storage.digests import FileDigest, verify_file
from mindspeed_dpo.untrusted.errors import MalformedDataError, damage_reported
from mindspeed_dpo.untrusted.pickle_names import InertObject, reject_foreign_objects
from mindspeed_dpo.untrusted.restricted_pickle import read_pickle
from mindspeed_dpo.untrusted.text_files import is_file_name
from mindspeed_dpo.untrusted.tiling import Box, check_tiling
from mindspeed_dpo.untrusted.torch_archive import MappedFile

METADATA_FILE = ".metadata"
_DCP = "torch.distributed.checkpoint."
_RECORDS = frozenset(
    {f"{_DCP}metadata.{name}" for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")}
    | {f"{_DCP}filesystem._StorageInfo", "torch.contiguous_format", "torch.strided", "pathlib.PosixPath"}
    | {"torch.serialization._get_layout", "pathlib.PurePosixPath", "pathlib._local.PosixPath"}
)  # fmt: skip
_PLAN_MODULES = ("torch.distributed.", "megatron.core.")
"""Where the classes are of the plans that torch and megatron-core store beside what is read here."""
_MAX_SIZE = 1 << 62


@dataclass(frozen=True)
class StoredBytes:
    """Where the bytes of a chunk are, for example `StoredBytes("__0_0.distcp", offset=0, num_bytes=1731)`."""

    file: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class StoredChunk:
    """A box of a tensor, and where its bytes are."""

    box: Box
    location: StoredBytes


@dataclass(frozen=True)
class StoredTensor:
    """An unsharded tensor and the chunks that tile it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[StoredChunk, ...]


class DistCheckpoint:
    """An iteration folder of `*.distcp` files.

    Attributes:
        folder: Path of the folder.
    """

    def __init__(self, folder: Path, digests: Mapping[str, FileDigest] | None = None) -> None:
        """Open a folder.

        Args:
            folder: Path of the folder.
            digests: Digests of the files by name; what is read of a file without one is not checked.
        """
        self.folder = folder
        self._digests = digests or {}
        self._files: dict[str, MappedFile] = {}

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The tensors that the metadata lists, by key."""
        return self._content[0]

    @property
    def objects(self) -> Mapping[str, StoredBytes]:
        """The objects other than tensors that the metadata lists, by key."""
        return self._content[1]

    def read(self, key: str, box: Box | None = None) -> Tensor:
        """Read a box of weights or optimizer state, by default all of it, in the stored dtype and shape of the box.

        Raises:
            MalformedDataError: A chunk is missing or damaged, or the box is not within the tensor.
        """
        stored = self.tensors[key]
        box = tuple((0, size) for size in stored.shape) if box is None else box
        if len(box) != len(stored.shape) or any(a < 0 or b > n for (a, b), n in zip(box, stored.shape, strict=True)):
            raise MalformedDataError(f"{self.folder}: {key} has the shape {list(stored.shape)}, {box} is not within it")
        result = torch.empty([stop - start for start, stop in box], dtype=stored.dtype)
        for chunk in stored.chunks:
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, chunk.box, strict=True)]
            if all(start < stop for start, stop in common):
                values = self._read_chunk(key, stored.dtype, chunk)
                result[_slices_within(box, common)] = values[_slices_within(chunk.box, common)]
        return result

    def read_object(self, key: str) -> Any:
        """Read an object that is not a tensor; its tensors are mapped from disk and must not be written to.

        Raises:
            MalformedDataError: It is missing, damaged, or not plain data.
        """
        if key not in self.objects:
            raise MalformedDataError(f"{self.folder} lacks {key}")
        location = self.objects[key]
        value = self._file(location.file).read(location.offset, location.num_bytes)
        reject_foreign_objects(value, self.folder / location.file, key)
        return value

    def _read_chunk(self, key: str, dtype: torch.dtype, chunk: StoredChunk) -> Tensor:
        value = self._file(chunk.location.file).read(chunk.location.offset, chunk.location.num_bytes)
        shape = tuple(stop - start for start, stop in chunk.box)
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype != dtype:
            raise MalformedDataError(
                f"{self.folder / chunk.location.file}: the chunk of {key} is not a tensor of {list(shape)} in {dtype}"
            )
        return value

    def _file(self, name: str) -> MappedFile:
        if name not in self._files:
            path = self.folder / name
            if not is_file_name(name) or not path.is_file() or not path.stat().st_size:
                raise MalformedDataError(f"{self.folder} lacks {name[:100]!r}, which {METADATA_FILE} names")
            self._files[name] = MappedFile(path, self._digests.get(name))
        return self._files[name]

    @cached_property
    def _content(self) -> tuple[dict[str, StoredTensor], dict[str, StoredBytes]]:
        file = self.folder / METADATA_FILE
        with damage_reported():
            if METADATA_FILE in self._digests:
                verify_file(file, self._digests[METADATA_FILE])
        metadata = read_pickle(file, _RECORDS)
        reject_foreign_objects(metadata, file, "the metadata", _PLAN_MODULES)
        try:
            tensors, objects = _parse_metadata(_state_of(metadata, "Metadata"))
        except _Mismatch as error:
            raise MalformedDataError(f"{file} is not the metadata of a torch_dist checkpoint: {error}") from error
        for key, stored in tensors.items():
            check_tiling(stored.shape, [chunk.box for chunk in stored.chunks], f"{file}: {key}")
        chunks = [chunk.location for stored in tensors.values() for chunk in stored.chunks]
        self._check_ranges([*chunks, *objects.values()])
        return tensors, objects

    def _check_ranges(self, locations: Iterable[StoredBytes]) -> None:
        """Check that no two chunks share bytes of a file."""
        by_file: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for location in locations:
            by_file[location.file].append((location.offset, location.offset + location.num_bytes))
        for name, ranges in by_file.items():
            ranges.sort()
            if any(stop > start for (_, stop), (start, _) in pairwise(ranges)):
                raise MalformedDataError(f"{self.folder / METADATA_FILE}: two chunks share bytes of {name!r}")


class _Mismatch(ValueError):
    """A record that is not what torch.distributed writes."""


def _parse_metadata(state: dict[str, Any]) -> tuple[dict[str, StoredTensor], dict[str, StoredBytes]]:
    """Convert the records of torch.distributed.checkpoint."""
    locations = dict(_locations(_item(state, "storage_data", dict)))
    tensors, objects = {}, {}
    for key, record in _item(state, "state_dict_metadata", dict).items():
        if not isinstance(key, str) or not isinstance(record, InertObject):
            raise _Mismatch("an entry is not a record of a name")
        if record.name.qualified_name.endswith(".BytesStorageMetadata"):
            objects[key] = _location(locations, key, ())
        else:
            tensors[key] = _stored_tensor(key, _state_of(record, "TensorStorageMetadata"), locations)
    return tensors, objects


def _locations(storage: dict[Any, Any]) -> Iterator[tuple[tuple[str, tuple[int, ...]], StoredBytes]]:
    for index, record in storage.items():
        place, info = _state_of(index, "MetadataIndex"), _state_of(record, "_StorageInfo")
        offset = place.get("offset")
        if info.get("transform_descriptors"):
            raise _Mismatch("chunks are stored compressed")
        numbers = _sizes((info.get("offset"), info.get("length")))
        key = (_item(place, "fqn", str), () if offset is None else _sizes(offset))
        yield key, StoredBytes(_item(info, "relative_path", str), *numbers)


def _stored_tensor(key: str, state: dict[str, Any], locations: Mapping[Any, StoredBytes]) -> StoredTensor:
    properties = state.get("properties")
    values = properties.state if isinstance(properties, InertObject) else None
    if not isinstance(values, tuple) or not values or not isinstance(values[0], torch.dtype):
        raise _Mismatch(f"{key} has no dtype")
    dtype, chunks = values[0], []
    for record in _item(state, "chunks", list):
        chunk = _state_of(record, "ChunkStorageMetadata")
        offsets, sizes = _sizes(chunk.get("offsets")), _sizes(chunk.get("sizes"))
        if len(offsets) != len(sizes):
            raise _Mismatch(f"a chunk of {key} has {len(offsets)} offsets and {len(sizes)} sizes")
        box = tuple((start, start + size) for start, size in zip(offsets, sizes, strict=True))
        location = _location(locations, key, offsets)
        if location.num_bytes < prod(sizes) * dtype.itemsize:
            raise _Mismatch(f"a chunk of {key} has {location.num_bytes} bytes, too few for {list(sizes)} in {dtype}")
        chunks.append(StoredChunk(box, location))
    return StoredTensor(_sizes(state.get("size")), dtype, tuple(chunks))


def _location(locations: Mapping[Any, StoredBytes], key: str, offsets: tuple[int, ...]) -> StoredBytes:
    if (key, offsets) not in locations:
        raise _Mismatch(f"it does not say where {key} at {list(offsets)} is")
    return locations[key, offsets]


def _state_of(record: Any, kind: str) -> dict[str, Any]:
    """The fields of a record of a class of torch.distributed."""
    if not isinstance(record, InertObject) or record.name.qualified_name.rsplit(".", 1)[-1] != kind:
        raise _Mismatch(f"expected a record of {kind}")
    if not isinstance(record.state, dict):
        raise _Mismatch(f"a record of {kind} has no fields")
    return record.state


def _item(state: dict[str, Any], name: str, kind: type) -> Any:
    value = state.get(name)
    if not isinstance(value, kind):
        raise _Mismatch(f"{name} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    is_list = isinstance(values, (tuple, list)) and len(values) <= 16
    if not is_list or not all(type(value) is int and 0 <= value < _MAX_SIZE for value in values):
        raise _Mismatch("an offset, size or length is not a list of sizes")
    return tuple(values)


def _slices_within(outer: Box, inner: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """The slices that select an inner box from a tensor that covers the outer box."""
    return tuple(slice(start - origin, stop - origin) for (start, stop), (origin, _) in zip(inner, outer, strict=True))
