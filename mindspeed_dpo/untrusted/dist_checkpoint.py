"""torch's distributed checkpoints, as megatron-core writes them: tensors and objects in chunks spread over files.

The folder's `.metadata` is a pickle of records of torch.distributed. It and the chunks are read with
`restricted_pickle`; neither megatron-core nor torch.distributed is needed. Before anything is read, the metadata is
checked: chunks tile their tensor, and their bytes lie within the files and do not overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.storage.digest_verification import verify_file
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.untrusted.dist_checkpoint_metadata import (
    MetadataMismatchError,
    StoredBytes,
    StoredChunk,
    StoredTensor,
    _state_of,
    parse_metadata,
)
from mindspeed_dpo.untrusted.errors import MalformedDataError, damage_reported
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
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
            tensors, objects = parse_metadata(_state_of(metadata, "Metadata"))
        except MetadataMismatchError as error:
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


def _slices_within(outer: Box, inner: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """The slices that select an inner box from a tensor that covers the outer box."""
    return tuple(slice(start - origin, stop - origin) for (start, stop), (origin, _) in zip(inner, outer, strict=True))
