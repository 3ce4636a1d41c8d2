"""A Megatron checkpoint of one file per rank (`mp_rank_*/model_optim_rng.pt`) as a source of weights.

Files of any tensor- and pipeline-parallel layout are read, whether converters or training wrote them. Selecting the
iteration folder is left to `format_detection`, safe reading of the files to `untrusted.torch_archive`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.torch_archive import read_torch_file
from mindspeed_dpo.weights.assets import find_assets
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.legacy_args import layout_from_args, model_from_args, plain_args
from mindspeed_dpo.weights.placement import ParallelLayout, Placement, TPRank
from mindspeed_dpo.weights.rules import (
    OUTPUT_LAYER,
    SCORE_HEAD,
    RuleTable,
    TensorEntry,
    embedding_entry,
    is_tied,
    local_entries,
)
from mindspeed_dpo.weights.weight_source import WeightSource, check_mcore_shape

RANK_FILE = "model_optim_rng.pt"
CHECKPOINT_VERSION = 3.0

StateDict = Mapping[str, Tensor]


class LegacySource(WeightSource):
    """An iteration folder of rank files."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Open the checkpoint `path`, whose rank files are in `folder`."""
        self.path = path
        self.folder = folder
        self._chunks_by_rank: dict[tuple[int, int], list[StateDict]] = {}

    @cached_property
    def is_reward_model(self) -> bool:
        """Whether the last stage holds a score head."""
        return SCORE_HEAD in self._chunks(0, self.layout.pp - 1)[-1]

    def model_config(self) -> ModelConfig:
        """The architecture of the stored args."""
        return model_from_args(self._args, self._first_file)

    @cached_property
    def layout(self) -> ParallelLayout:
        """How the rank files divide the model."""
        args, chunks = self._read(self._first_file)
        layout = layout_from_args(args, len(chunks), self._first_file)
        self._check_ranks(layout)
        return layout

    def assets(self) -> Path | None:
        """The Hugging Face files stored in the checkpoint."""
        return find_assets(self.path)

    def weight_files(self) -> Sequence[Path]:
        """The files of all ranks."""
        layout = self.layout
        return [self._file(t, p) for p in range(layout.pp) for t in range(layout.tp)]

    def has(self, entry: TensorEntry) -> bool:
        """Whether every shard is stored."""
        return all(self._find(entry, t)[0] is not None for t in range(self.layout.tp))

    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Missing and unexpected names, by the keys of all rank files; `_extra_state` is ignored.

        Raises:
            WeightsError: The number of layers differs.
        """
        if model.num_layers != self._num_layers:
            raise WeightsError(f"{self.path} holds {self._num_layers} layers, but the model has {model.num_layers}")
        rules, ignored = self.rules(model), {rule.mcore for rule in self.ignored_rules(model)}
        missing, unexpected = [], []
        for tp_rank in range(self.layout.tp):
            for pp_rank, chunk, placement in self.layout.stages(model.num_layers, tp_rank):
                rank = f"{self._file(tp_rank, pp_rank).parent.name}:"
                state = self._chunks(tp_rank, pp_rank)[chunk]
                expected = set(ignored)
                for local_name, names, optional in _expected_names(rules, model, placement):
                    stored = [name for name in names if name in state]
                    expected.update(stored)
                    missing += [] if stored or optional else [rank + local_name]
                unexpected += [rank + name for name in state if name not in expected and "_extra_state" not in name]
        return missing, unexpected

    def check_tied_copies(self, model: ModelConfig) -> None:
        """Check that the last stage's copy of a tied embedding equals the embedding.

        Raises:
            WeightsError: They differ.
        """
        if not is_tied(model) or self.layout.pp == 1 or self.is_reward_model:
            return
        for tp_rank in range(self.layout.tp):
            copy = self._chunks(tp_rank, self.layout.pp - 1)[-1].get(OUTPUT_LAYER)
            name, state = self._find(embedding_entry(self.rules(model)), tp_rank)
            if copy is not None and name is not None and not torch.equal(copy, state[name]):
                file = self._file(tp_rank, self.layout.pp - 1)
                raise WeightsError(
                    f"{file}: {OUTPUT_LAYER} differs from the embedding it is tied to; if the model is untied, its "
                    "config must say so"
                )

    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shape of every rank's shard with the model."""
        for tp_rank in range(self.layout.tp):
            shape = tuple(self._shard(entry, tp_rank).shape)
            file = self._file(tp_rank, self._location(entry)[0])
            name = self._find(entry, tp_rank)[0] or entry.rule.mcore
            check_mcore_shape(shape, entry.layout, model, self.layout.tp, file, name)

    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read the shards of the weights that overlap a rank's slices; dtype and shape of each as in the base class."""
        tensor_layout, dim = entry.layout, entry.layout.partition_dim
        if dim is None:
            return tensor_layout.to_hf(self._shard(entry, 0), model)
        shapes = tensor_layout.hf_shapes(model)
        ranges = [tensor_layout.hf_range(shape[dim], model, tp) for shape in shapes]
        # What one shard holds of the first Hugging Face tensor; shards of a vocabulary may include padded rows.
        share = self._shard(entry, 0).shape[0] if tensor_layout.is_padded else shapes[0][dim] // self.layout.tp
        start, stop = ranges[0]
        first = min(start // share, self.layout.tp - 1)
        ranks = range(first, max(first + 1, math.ceil(stop / share)))
        shards = [tensor_layout.to_hf(self._shard(entry, rank), model) for rank in ranks]
        return tuple(
            _narrow(parts, dim, start - first * parts[0].shape[dim], stop - start)
            for parts, (start, stop) in zip(zip(*shards, strict=True), ranges, strict=True)
        )

    def _shard(self, entry: TensorEntry, tp_rank: int) -> Tensor:
        """The stored tensor of one rank."""
        name, state = self._find(entry, tp_rank)
        if name is None:
            file = self._file(tp_rank, self._location(entry)[0])
            raise WeightsError(f"{file} lacks {entry.rule.mcore} of layer {entry.layer}")
        return state[name]

    def _find(self, entry: TensorEntry, tp_rank: int) -> tuple[str | None, StateDict]:
        """The name of an entry in a rank's file, and the chunk that holds it."""
        pp_rank, chunk, local = self._location(entry)
        state = self._chunks(tp_rank, pp_rank)[chunk]
        return next((name for name in entry.mcore_names(local) if name in state), None), state

    def _location(self, entry: TensorEntry) -> tuple[int, int, int | None]:
        """Pipeline stage, chunk and local layer of an entry."""
        if entry.layer is not None:
            return self._layer_locations[entry.layer]
        return (0, 0, None) if entry.rule.where == "first" else (self.layout.pp - 1, -1, None)

    @cached_property
    def _layer_locations(self) -> dict[int, tuple[int, int, int]]:
        return {
            layer: (pp_rank, chunk, local)
            for pp_rank, chunk, placement in self.layout.stages(self._num_layers)
            for local, layer in enumerate(placement.layers)
            if layer is not None
        }

    @property
    def _num_layers(self) -> int:
        """Layers without the no-op layers, which Megatron counts."""
        return int(self._args.num_layers) - len(self.layout.noop_layers)

    @cached_property
    def _first_file(self) -> Path:
        return sorted(self.folder.glob("mp_rank_*"))[0] / RANK_FILE

    @cached_property
    def _args(self) -> argparse.Namespace:
        return self._read(self._first_file)[0]

    def _file(self, tp_rank: int, pp_rank: int) -> Path:
        return self.folder / rank_folder(tp_rank, pp_rank, self.layout.pp) / RANK_FILE

    def _chunks(self, tp_rank: int, pp_rank: int) -> list[StateDict]:
        key = (tp_rank, pp_rank)
        if key not in self._chunks_by_rank:
            file = self._file(tp_rank, pp_rank)
            chunks = self._read(file)[1]
            if len(chunks) != self.layout.num_chunks(self._num_layers):
                raise WeightsError(f"{file} holds {len(chunks)} virtual chunks, unlike {self._first_file}")
            self._chunks_by_rank[key] = chunks
        return self._chunks_by_rank[key]

    def _check_ranks(self, layout: ParallelLayout) -> None:
        """Check that there is a file for every rank, and no folder of another layout."""
        names = {rank_folder(t, p, layout.pp) for t in range(layout.tp) for p in range(layout.pp)}
        absent = sorted(name for name in names if not (self.folder / name / RANK_FILE).is_file())
        foreign = sorted({folder.name for folder in self.folder.glob("mp_rank_*")} - names)
        if absent or foreign:
            raise WeightsError(
                f"{self.folder} should hold TP {layout.tp} x PP {layout.pp} rank files; "
                f"missing: {', '.join(absent) or 'none'}; of another layout: {', '.join(foreign) or 'none'}"
            )

    @staticmethod
    def _read(file: Path) -> tuple[argparse.Namespace, list[StateDict]]:
        """The args and the chunks of one rank file, with memory-mapped tensors."""
        with reraised_as(WeightsError):
            content = read_torch_file(file)
        if not isinstance(content, dict) or not isinstance(content.get("args"), argparse.Namespace):
            raise WeightsError(f"{file} is not a Megatron checkpoint: it has no args")
        others = {key: value for key, value in content.items() if key != "args"}
        with reraised_as(WeightsError):
            reject_foreign_objects(others, file, "the checkpoint")
        version = content.get("checkpoint_version")
        if type(version) not in (int, float) or version != CHECKPOINT_VERSION:
            described = version if type(version) in (int, float, type(None)) else f"of type {type(version).__name__}"
            raise WeightsError(
                f"{file} has checkpoint_version {described}; only {CHECKPOINT_VERSION} is supported, because older "
                "versions order query, key and value differently"
            )
        chunks = [content["model"]] if "model" in content else list(_numbered_chunks(content))
        if not chunks or not all(isinstance(chunk, Mapping) for chunk in chunks):
            raise WeightsError(f"{file} holds no model")
        for name, value in ((name, value) for chunk in chunks for name, value in chunk.items()):
            if not isinstance(name, str):
                raise WeightsError(f"{file}: the model has a key of type {type(name).__name__}, expected a name")
            if not isinstance(value, Tensor) and "_extra_state" not in name:
                raise WeightsError(f"{file}: {name} is a {type(value).__name__}, expected a tensor")
        return plain_args(content["args"]), chunks


def rank_folder(tp_rank: int, pp_rank: int, pp_size: int) -> str:
    """Megatron's name of a rank's folder; the stage is part of it only where there are several."""
    return f"mp_rank_{tp_rank:02d}" + (f"_{pp_rank:03d}" if pp_size > 1 else "")


def _numbered_chunks(content: Mapping[str, StateDict]) -> Iterator[StateDict]:
    """The values of `model0`, `model1`, … that virtual pipeline stages are stored as."""
    chunk = 0
    while f"model{chunk}" in content:
        yield content[f"model{chunk}"]
        chunk += 1


def _expected_names(
    rules: RuleTable, model: ModelConfig, placement: Placement
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """For each tensor of a chunk: its local name, all names it may be stored under, and whether it is optional."""
    local_of = {layer: local for local, layer in enumerate(placement.layers)}
    for local_name, entry in local_entries(rules, model, placement):
        is_output = local_name == OUTPUT_LAYER
        names = (local_name,) if is_output else entry.mcore_names(local_of.get(entry.layer))
        yield local_name, names, entry.rule.optional or (is_output and is_tied(model))


def _narrow(shards: Sequence[Tensor], dim: int, start: int, length: int) -> Tensor:
    joined = shards[0] if len(shards) == 1 else torch.cat(list(shards), dim)
    return joined.narrow(dim, start, length)
