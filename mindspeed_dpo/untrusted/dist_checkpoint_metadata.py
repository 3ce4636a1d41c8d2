"""The metadata of a distributed checkpoint: records of torch.distributed as typed values, each checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from mindspeed_dpo.untrusted.pickle_names import InertObject
from mindspeed_dpo.untrusted.tiling import Box

_MAX_SIZE = 1 << 62


@dataclass(frozen=True)
class StoredBytes:
    """The place of the bytes of a chunk, for example `StoredBytes("__0_0.distcp", offset=0, num_bytes=1731)`."""

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
    """An unsharded tensor and the chunks that tile it.

    Example: a [4, 8] tensor of two chunks.

        StoredTensor(
            (4, 8), torch.float32,
            (StoredChunk(((0, 2), (0, 8)), StoredBytes("__0_0.distcp", 0, 1731)),
             StoredChunk(((2, 4), (0, 8)), StoredBytes("__1_0.distcp", 0, 1731))),
        )
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[StoredChunk, ...]


class MetadataMismatchError(ValueError):
    """A record that is not what torch.distributed writes."""


def parse_metadata(state: dict[str, Any]) -> tuple[dict[str, StoredTensor], dict[str, StoredBytes]]:
    """Convert the records of torch.distributed.checkpoint.

    Raises:
        MetadataMismatchError: A record is missing or of another type.
    """
    locations = dict(_locations(_item(state, "storage_data", dict)))
    tensors, objects = {}, {}
    for key, record in _item(state, "state_dict_metadata", dict).items():
        if not isinstance(key, str) or not isinstance(record, InertObject):
            raise MetadataMismatchError("an entry is not a record of a name")
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
            raise MetadataMismatchError("chunks are stored compressed")
        numbers = _sizes((info.get("offset"), info.get("length")))
        key = (_item(place, "fqn", str), () if offset is None else _sizes(offset))
        yield key, StoredBytes(_item(info, "relative_path", str), *numbers)


def _stored_tensor(key: str, state: dict[str, Any], locations: Mapping[Any, StoredBytes]) -> StoredTensor:
    properties = state.get("properties")
    values = properties.state if isinstance(properties, InertObject) else None
    if not isinstance(values, tuple) or not values or not isinstance(values[0], torch.dtype):
        raise MetadataMismatchError(f"{key} has no dtype")
    dtype, chunks = values[0], []
    for record in _item(state, "chunks", list):
        chunk = _state_of(record, "ChunkStorageMetadata")
        offsets, sizes = _sizes(chunk.get("offsets")), _sizes(chunk.get("sizes"))
        if len(offsets) != len(sizes):
            raise MetadataMismatchError(f"a chunk of {key} has {len(offsets)} offsets and {len(sizes)} sizes")
        box = tuple((start, start + size) for start, size in zip(offsets, sizes, strict=True))
        location = _location(locations, key, offsets)
        if location.num_bytes < prod(sizes) * dtype.itemsize:
            raise MetadataMismatchError(
                f"a chunk of {key} has {location.num_bytes} bytes, too few for {list(sizes)} in {dtype}"
            )
        chunks.append(StoredChunk(box, location))
    return StoredTensor(_sizes(state.get("size")), dtype, tuple(chunks))


def _location(locations: Mapping[Any, StoredBytes], key: str, offsets: tuple[int, ...]) -> StoredBytes:
    if (key, offsets) not in locations:
        raise MetadataMismatchError(f"it does not say where {key} at {list(offsets)} is")
    return locations[key, offsets]


def _state_of(record: Any, kind: str) -> dict[str, Any]:
    """The fields of a record of a class of torch.distributed."""
    if not isinstance(record, InertObject) or record.name.qualified_name.rsplit(".", 1)[-1] != kind:
        raise MetadataMismatchError(f"expected a record of {kind}")
    if not isinstance(record.state, dict):
        raise MetadataMismatchError(f"a record of {kind} has no fields")
    return record.state


def _item(state: dict[str, Any], name: str, kind: type) -> Any:
    value = state.get(name)
    if not isinstance(value, kind):
        raise MetadataMismatchError(f"{name} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _sizes(values: Any) -> tuple[int, ...]:
    is_list = isinstance(values, (tuple, list)) and len(values) <= 16
    if not is_list or not all(type(value) is int and 0 <= value < _MAX_SIZE for value in values):
        raise MetadataMismatchError("an offset, size or length is not a list of sizes")
    return tuple(values)
