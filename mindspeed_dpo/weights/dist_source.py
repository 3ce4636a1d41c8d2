"""A training checkpoint in megatron-core's `torch_dist` format as a source of weights.

Tensors are stored unsharded, in chunks spread over files; the layers of the decoder are stacked along a leading dim.
The folder's `.metadata` is a pickle. It and the chunks are read with `safe_pickle`, so neither megatron-core nor
torch.distributed is needed. Writing these checkpoints is left to `engine`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.assets import find_assets
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.placement import TPRank
from mindspeed_dpo.weights.rules import SCORE_HEAD, TensorEntry, model_entries
from mindspeed_dpo.weights.safe_pickle import InertObject, reject_foreign_objects
from mindspeed_dpo.weights.torch_file import read_pickle, read_torch_bytes
from mindspeed_dpo.weights.weight_source import WeightSource, check_mcore_shape

METADATA_FILE, COMPLETE_FILE, DESCRIPTION_FILE = ".metadata", "metadata.json", "mindspeed_dpo.json"
_MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.", "rm_head.")
_DCP = "torch.distributed.checkpoint."
_RECORDS = frozenset(
    {f"{_DCP}metadata.{name}" for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")}
    | {f"{_DCP}filesystem._StorageInfo", "torch.contiguous_format", "torch.strided", "pathlib.PosixPath"}
)  # fmt: skip

Box = tuple[tuple[int, int], ...]
"""Start and stop along each dim of a tensor."""


@dataclass(frozen=True)
class _Chunk:
    """A box of a tensor, and the bytes of the file that holds it."""

    box: Box
    file: str
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class _StoredTensor:
    """An unsharded tensor and its chunks."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[_Chunk, ...]


class DistSource(WeightSource):
    """An iteration folder of `*.distcp` files."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Open the checkpoint `path`, whose iteration folder is `folder`.

        Raises:
            WeightsError: The iteration is incomplete.
        """
        self.path = path
        self.folder = folder
        self._last_read: tuple[_Chunk, Tensor] | tuple[None, None] = None, None
        absent = [name for name in (METADATA_FILE, COMPLETE_FILE) if not (folder / name).is_file()]
        if absent:
            raise WeightsError(f"{folder} lacks {', '.join(absent)}: the checkpoint is incomplete")

    @property
    def is_reward_model(self) -> bool:
        """Whether a score head is stored."""
        return SCORE_HEAD in self._tensors

    def model_config(self) -> ModelConfig:
        """The architecture that is recorded in the checkpoint.

        Raises:
            WeightsError: There is no such record, or it is damaged.
        """
        file = self.folder / DESCRIPTION_FILE
        try:
            return ModelConfig.from_dict(json.loads(file.read_text(encoding="utf-8"))["model"])
        except FileNotFoundError as error:
            raise WeightsError(f"{file} does not exist, so the model is unknown; give --hf-cfg-dir") from error
        except (KeyError, json.JSONDecodeError) as error:
            raise WeightsError(f"{file} does not describe a model: {error}") from error

    def assets(self) -> Path | None:
        """The Hugging Face files stored in the checkpoint."""
        return find_assets(self.path)

    def weight_files(self) -> Sequence[Path]:
        """The files of the chunks, and their metadata."""
        return [*sorted(self.folder.glob("*.distcp")), self.folder / METADATA_FILE]

    def has(self, entry: TensorEntry) -> bool:
        """Whether the tensor is stored."""
        return self._find(entry) is not None

    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Missing and unexpected names, by the metadata; optimizer states and `_extra_state` are ignored."""
        missing, expected = [], {rule.mcore for rule in self.ignored_rules(model)}
        for entry in model_entries(self.rules(model), model):
            location = self._find(entry)
            if location is not None:
                expected.add(location[0])
            elif not entry.rule.optional:
                missing.append(entry.global_name)
        return missing, sorted(key for key in self._tensors if key.startswith(_MODEL_PREFIXES) and key not in expected)

    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shapes in the metadata with the model.

        Raises:
            WeightsError: A shape, or the number of layers or experts, differs.
        """
        key, leading = self._locate(entry)
        shape = self._tensors[key].shape
        sizes = {"layers": model.num_layers, "experts": model.num_experts}
        for what, actual in zip(leading, shape, strict=False):
            if actual != sizes[what]:
                raise WeightsError(f"{self.folder} holds {actual} {what}, but the model has {sizes[what]}")
        check_mcore_shape(shape[len(leading) :], entry.layout, model, 1, self.folder, key)

    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read the rank's blocks of the stored weights; dtype and shape of each slice as in the base class."""
        layout, (key, leading) = entry.layout, self._locate(entry)
        shape = self._tensors[key].shape[len(leading) :]
        leading_box = tuple((index, index + 1) for index in leading.values())
        boxes = [
            tuple(bounds if dim == layout.partition_dim else (0, size) for dim, size in enumerate(shape))
            for bounds in layout.mcore_ranges(model, tp)
        ]
        blocks = [self._read(key, leading_box + box).flatten(0, len(leading)) for box in boxes]
        return layout.to_hf(blocks[0] if len(blocks) == 1 else torch.cat(blocks, layout.partition_dim or 0), model)

    def keys(self) -> list[str]:
        """Names of all stored tensors."""
        return list(self._tensors)

    def read_tensor(self, key: str) -> Tensor:
        """Read weights of any shape and dtype by their stored name, unsharded.

        Raises:
            WeightsError: Part of it is missing.
        """
        return self._read(key, tuple((0, size) for size in self._tensors[key].shape))

    def _find(self, entry: TensorEntry) -> tuple[str, dict[str, int]] | None:
        """The key of an entry and its indices along the leading dims, where layers or experts are stacked."""
        return next(((name, leading) for name, leading in entry.stacked_names() if name in self._tensors), None)

    def _locate(self, entry: TensorEntry) -> tuple[str, dict[str, int]]:
        """What `_find` gives, for an entry that must be stored."""
        location = self._find(entry)
        if location is None:
            raise WeightsError(f"{self.folder} lacks {entry.global_name}")
        return location

    def _read(self, key: str, box: Box) -> Tensor:
        """Read a box of a tensor from the chunks that overlap it."""
        stored = self._tensors[key]
        result = torch.empty([stop - start for start, stop in box], dtype=stored.dtype)
        num_read = 0
        for chunk in stored.chunks:
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, chunk.box, strict=True)]
            if any(start >= stop for start, stop in common):
                continue
            overlap = self._chunk(chunk, key)[_slices_within(chunk.box, common)]
            result[_slices_within(box, common)] = overlap
            num_read += overlap.numel()
        if num_read != result.numel():
            raise WeightsError(f"{self.folder}: {key} is incomplete: {num_read} of {result.numel()} values are stored")
        return result

    def _chunk(self, chunk: _Chunk, key: str) -> Tensor:
        """A chunk, cached until another one is read: it holds all experts of a layer, which are read one by one."""
        if self._last_read[0] is not chunk:
            self._last_read = None, None  # not two chunks at a time
            self._last_read = chunk, self._load(chunk, key)
        tensor = self._last_read[1]
        assert tensor is not None
        return tensor

    def _load(self, chunk: _Chunk, key: str) -> Tensor:
        """Load one chunk, which is a complete `torch.save` file within a larger file."""
        file = self.folder / chunk.file
        if Path(chunk.file).name != chunk.file or not file.is_file():
            raise WeightsError(f"{self.folder} lacks {chunk.file}, which holds part of {key}")
        with file.open("rb") as stream:
            stream.seek(chunk.offset)
            content = stream.read(chunk.num_bytes)
        tensor = read_torch_bytes(content, f"{file}: {key}")
        expected = tuple(stop - start for start, stop in chunk.box)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
            raise WeightsError(f"{file}: the chunk of {key} is not a tensor of {list(expected)}")
        return tensor

    @cached_property
    def _tensors(self) -> dict[str, _StoredTensor]:
        """The tensors that the metadata lists, by key."""
        file = self.folder / METADATA_FILE
        metadata = read_pickle(file, _RECORDS)
        reject_foreign_objects(metadata, file, "the metadata")
        try:
            return dict(_stored_tensors(metadata.state))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{file} is not the metadata of a torch_dist checkpoint: {error!r}") from error


def _stored_tensors(metadata: dict[str, Any]) -> Iterator[tuple[str, _StoredTensor]]:
    """Convert the records of torch.distributed.checkpoint."""
    locations = {
        (index.state["fqn"], tuple(index.state.get("offset") or ())): info.state
        for index, info in metadata["storage_data"].items()
    }
    for key, record in metadata["state_dict_metadata"].items():
        if not isinstance(record, InertObject) or not isinstance(record.state, dict) or "chunks" not in record.state:
            continue
        chunks = []
        for chunk in record.state["chunks"]:
            offsets, sizes = tuple(chunk.state["offsets"]), tuple(chunk.state["sizes"])
            location = locations[key, offsets]
            if location.get("transform_descriptors"):
                raise ValueError(f"{key} is stored compressed")
            box = tuple((start, start + size) for start, size in zip(offsets, sizes, strict=True))
            chunks.append(_Chunk(box, location["relative_path"], int(location["offset"]), int(location["length"])))
        yield key, _StoredTensor(tuple(record.state["size"]), record.state["properties"].state[0], tuple(chunks))


def _slices_within(outer: Box, inner: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """The slices that select an inner box from a tensor that covers the outer box."""
    return tuple(slice(start - origin, stop - origin) for (start, stop), (origin, _) in zip(inner, outer, strict=True))
