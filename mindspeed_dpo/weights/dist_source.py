"""A training checkpoint (megatron-core's `torch_dist` format) as a source of weights.

The tensors are stored whole, in chunks spread over files, with the layers of the decoder stacked along a leading dim.
The folder's `.metadata` is a pickle; it and the chunks are read by the tables of `safe_pickle`, so neither
megatron-core nor torch.distributed is needed. Writing these checkpoints is the engine's.
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
from mindspeed_dpo.weights.base import WeightSource, check_mcore_shape
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layouts import Cut
from mindspeed_dpo.weights.rules import SCORE_HEAD, Entry, model_entries
from mindspeed_dpo.weights.safe_pickle import Inert, refuse_placeholders
from mindspeed_dpo.weights.torch_file import read_pickle, read_torch_bytes

METADATA, COMPLETE, DESCRIPTION = ".metadata", "metadata.json", "mindspeed_dpo.json"
_MODEL_PREFIXES = ("embedding.", "decoder.", "output_layer.", "rm_head.")
_DCP = "torch.distributed.checkpoint."
_RECORDS = frozenset(
    {f"{_DCP}metadata.{name}" for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")}
    | {f"{_DCP}filesystem._StorageInfo", "torch.contiguous_format", "torch.strided", "pathlib.PosixPath"}
)  # fmt: skip

Box = tuple[tuple[int, int], ...]
"""First and past-the-last index along each dim."""


@dataclass(frozen=True)
class _Chunk:
    """A box of a tensor, and the bytes of a file that hold it."""

    box: Box
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class _Stored:
    """A whole tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    chunks: tuple[_Chunk, ...]


class DistSource(WeightSource):
    """An iteration folder of `*.distcp` files."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Open the checkpoint `path`, whose iteration lies in `folder`.

        Raises:
            WeightsError: The iteration was not written to its end.
        """
        self.path = path
        self.folder = folder
        absent = [name for name in (METADATA, COMPLETE) if not (folder / name).is_file()]
        if absent:
            raise WeightsError(f"{folder} lacks {', '.join(absent)}: the checkpoint was not written to its end")

    @property
    def is_reward_model(self) -> bool:
        """By the key of the head."""
        return SCORE_HEAD in self._tensors

    def model_config(self) -> ModelConfig:
        """The architecture noted beside the checkpoint."""
        file = self.folder / DESCRIPTION
        try:
            return ModelConfig.from_dict(json.loads(file.read_text(encoding="utf-8"))["model"])
        except FileNotFoundError as error:
            raise WeightsError(f"{file} does not exist, so the model is unknown; give --hf-cfg-dir") from error
        except (KeyError, json.JSONDecodeError) as error:
            raise WeightsError(f"{file} does not describe a model: {error}") from error

    def assets(self) -> Path | None:
        """The Hugging Face files kept beside the weights."""
        return find_assets(self.path)

    def weight_files(self) -> Sequence[Path]:
        """The chunk files and their directory."""
        return [*sorted(self.folder.glob("*.distcp")), self.folder / METADATA]

    def has(self, entry: Entry) -> bool:
        """Whether the tensor is there."""
        return self._find(entry) is not None

    def unfit_names(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """By the keys of the metadata; optimizer states and `_extra_state` are overlooked."""
        missing, known = [], {rule.mcore for rule in self.overlooked(model)}
        for entry in model_entries(self.rules(model), model):
            key = self._find(entry)
            if key is None and entry.rule.optional:
                continue
            if key is None:
                missing.append(entry.mcore_names(entry.layer)[0])
            else:
                known.add(key)
        return missing, sorted(key for key in self._tensors if key.startswith(_MODEL_PREFIXES) and key not in known)

    def check_shapes(self, entry: Entry, model: ModelConfig) -> None:
        """By the metadata."""
        key, lead = self._locate(entry)
        shape = self._tensors[key].shape
        if lead and shape[0] != model.num_layers:
            raise WeightsError(f"{self.folder} holds {shape[0]} layers, but the model has {model.num_layers}")
        check_mcore_shape(shape[len(lead) :], entry.rule.kind, model, 1, self.folder, key)

    def pieces(self, entry: Entry, model: ModelConfig, cut: Cut) -> tuple[Tensor, ...]:
        """Read the rank's share of the whole tensor, block by block."""
        kind, (key, lead) = entry.rule.kind, self._locate(entry)
        shape = self._tensors[key].shape[len(lead) :]
        boxes = [
            tuple(bounds if dim == kind.dim else (0, size) for dim, size in enumerate(shape))
            for bounds in kind.mcore_ranges(model, cut)
        ]
        blocks = [self._read(key, lead + box).flatten(0, len(lead)) for box in boxes]
        return kind.to_hf(blocks[0] if len(blocks) == 1 else torch.cat(blocks, kind.dim or 0), model)

    def keys(self) -> list[str]:
        """Names of all tensors, as stored."""
        return list(self._tensors)

    def whole(self, key: str) -> Tensor:
        """A tensor by its stored name.

        Raises:
            WeightsError: It is not there whole.
        """
        return self._read(key, tuple((0, size) for size in self._tensors[key].shape))

    def _find(self, entry: Entry) -> str | None:
        """The key of an entry: layers stacked under one key, or each under its own."""
        names = entry.mcore_names(entry.layer)
        stacked = [name.replace(f".layers.{entry.layer}.", ".layers.") for name in names]
        return next((key for key in (*stacked, *names) if key in self._tensors), None)

    def _locate(self, entry: Entry) -> tuple[str, Box]:
        """The key of an entry, and its place on the dim of layers where those are stacked."""
        key = self._find(entry)
        if key is None:
            raise WeightsError(f"{self.folder} lacks {entry.mcore_names(entry.layer)[0]}")
        if entry.layer is None or key in entry.mcore_names(entry.layer):
            return key, ()
        return key, ((entry.layer, entry.layer + 1),)

    def _read(self, key: str, box: Box) -> Tensor:
        """A box of a tensor, put together from the chunks that overlap it."""
        stored = self._tensors[key]
        result = torch.empty([stop - start for start, stop in box], dtype=stored.dtype)
        covered = 0
        for chunk in stored.chunks:
            common = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, chunk.box, strict=True)]
            if any(start >= stop for start, stop in common):
                continue
            part = self._load(chunk, key)[_within(common, chunk.box)]
            result[_within(common, box)] = part
            covered += part.numel()
        if covered != result.numel():
            raise WeightsError(f"{self.folder}: {key} is incomplete: {covered} of {result.numel()} values are stored")
        return result

    def _load(self, chunk: _Chunk, key: str) -> Tensor:
        """One chunk, which is a file of its own within a larger one."""
        file = self.folder / chunk.file
        if Path(chunk.file).name != chunk.file or not file.is_file():
            raise WeightsError(f"{self.folder} lacks {chunk.file}, which holds part of {key}")
        with file.open("rb") as stream:
            stream.seek(chunk.offset)
            content = stream.read(chunk.length)
        tensor = read_torch_bytes(content, f"{file}: {key}")
        expected = tuple(stop - start for start, stop in chunk.box)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != expected:
            raise WeightsError(f"{file}: the chunk of {key} is not a tensor of {list(expected)}")
        return tensor

    @cached_property
    def _tensors(self) -> dict[str, _Stored]:
        """What the metadata lists, by key."""
        file = self.folder / METADATA
        metadata = read_pickle(file, _RECORDS)
        refuse_placeholders(metadata, file, "the metadata")
        try:
            return dict(_stored_tensors(metadata.state))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{file} is not the metadata of a torch_dist checkpoint: {error!r}") from error


def _stored_tensors(metadata: dict[str, Any]) -> Iterator[tuple[str, _Stored]]:
    """Read the records of torch.distributed.checkpoint."""
    places = {
        (index.state["fqn"], tuple(index.state.get("offset") or ())): info.state
        for index, info in metadata["storage_data"].items()
    }
    for key, record in metadata["state_dict_metadata"].items():
        if not isinstance(record, Inert) or not isinstance(record.state, dict) or "chunks" not in record.state:
            continue
        chunks = []
        for chunk in record.state["chunks"]:
            offsets, sizes = tuple(chunk.state["offsets"]), tuple(chunk.state["sizes"])
            place = places[key, offsets]
            if place.get("transform_descriptors"):
                raise ValueError(f"{key} is stored compressed")
            box = tuple((start, start + size) for start, size in zip(offsets, sizes, strict=True))
            chunks.append(_Chunk(box, place["relative_path"], int(place["offset"]), int(place["length"])))
        yield key, _Stored(tuple(record.state["size"]), record.state["properties"].state[0], tuple(chunks))


def _within(common: Sequence[tuple[int, int]], box: Box) -> tuple[slice, ...]:
    """The place of a box inside another, as slices."""
    return tuple(slice(start - origin, stop - origin) for (start, stop), (origin, _) in zip(common, box, strict=True))
