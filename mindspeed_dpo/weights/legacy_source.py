"""A Megatron checkpoint of one file per rank (`mp_rank_*/model_optim_rng.pt`) as a source of weights.

Files of any tensor- and pipeline-parallel layout are read, whoever wrote them: converters, `release` tools, training.
Finding the iteration folder is left to `source`, safe opening to `torch_file`.
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
from mindspeed_dpo.weights.assets import find_assets
from mindspeed_dpo.weights.base import WeightSource, check_mcore_shape
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.layouts import Cut
from mindspeed_dpo.weights.namespace import layout_of, model_of, plain_args
from mindspeed_dpo.weights.placement import Layout, Placement
from mindspeed_dpo.weights.rules import (
    OUTPUT_LAYER,
    SCORE_HEAD,
    Entry,
    RuleTable,
    is_tied,
    local_entries,
    tied_entry,
)
from mindspeed_dpo.weights.safe_pickle import refuse_placeholders
from mindspeed_dpo.weights.torch_file import read_torch_file

RANK_FILE = "model_optim_rng.pt"
CHECKPOINT_VERSION = 3.0

StateDict = Mapping[str, Tensor]


class LegacySource(WeightSource):
    """An iteration folder of rank files."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Open the checkpoint `path`, whose rank files lie in `folder`."""
        self.path = path
        self.folder = folder
        self._files: dict[tuple[int, int], list[StateDict]] = {}

    @cached_property
    def is_reward_model(self) -> bool:
        """By the head in the last stage."""
        return SCORE_HEAD in self._chunks(0, self.layout.pp - 1)[-1]

    def model_config(self) -> ModelConfig:
        """The architecture of the stored args."""
        return model_of(self._args, self._first_file)

    @cached_property
    def layout(self) -> Layout:
        """How the files divide the model."""
        args, chunks = self._read(self._first_file)
        layout = layout_of(args, len(chunks), self._first_file)
        self._check_ranks(layout)
        return layout

    def assets(self) -> Path | None:
        """The Hugging Face files kept beside the weights."""
        return find_assets(self.path)

    def weight_files(self) -> Sequence[Path]:
        """One file per rank."""
        layout = self.layout
        return [self._file(t, p) for p in range(layout.pp) for t in range(layout.tp)]

    def has(self, entry: Entry) -> bool:
        """Whether every shard is there."""
        return all(self._find(entry, t)[0] is not None for t in range(self.layout.tp))

    def unfit_names(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """By the keys of all rank files; `_extra_state` of parallel layers is overlooked.

        Raises:
            WeightsError: The folder holds another number of layers.
        """
        if model.num_layers != self._num_layers:
            raise WeightsError(f"{self.path} holds {self._num_layers} layers, but the model has {model.num_layers}")
        rules, overlooked = self.rules(model), {rule.mcore for rule in self.overlooked(model)}
        missing, unexpected = [], []
        for tp_rank in range(self.layout.tp):
            for pp_rank, chunk, placement in self.layout.stages(model.num_layers, tp_rank):
                place = f"{self._file(tp_rank, pp_rank).parent.name}:"
                state = self._chunks(tp_rank, pp_rank)[chunk]
                known = set(overlooked)
                for local_name, names, optional in _expected(rules, model, placement):
                    found = [name for name in names if name in state]
                    known.update(found)
                    missing += [] if found or optional else [place + local_name]
                unexpected += [place + name for name in state if name not in known and "_extra_state" not in name]
        return missing, unexpected

    def check_copies(self, model: ModelConfig) -> None:
        """The last stage's copy of a tied embedding must equal the embedding."""
        if not is_tied(model) or self.layout.pp == 1 or self.is_reward_model:
            return
        for tp_rank in range(self.layout.tp):
            copy = self._chunks(tp_rank, self.layout.pp - 1)[-1].get(OUTPUT_LAYER)
            name, state = self._find(tied_entry(self.rules(model)), tp_rank)
            if copy is not None and name is not None and not torch.equal(copy, state[name]):
                file = self._file(tp_rank, self.layout.pp - 1)
                raise WeightsError(
                    f"{file}: {OUTPUT_LAYER} differs from the embedding it is tied to; if the model is untied, its "
                    "config must say so"
                )

    def check_shapes(self, entry: Entry, model: ModelConfig) -> None:
        """Of every rank's shard."""
        for tp_rank in range(self.layout.tp):
            shape = tuple(self._shard(entry, tp_rank).shape)
            file = self._file(tp_rank, self._place(entry)[0])
            name = self._find(entry, tp_rank)[0] or entry.rule.mcore
            check_mcore_shape(shape, entry.rule.kind, model, self.layout.tp, file, name)

    def pieces(self, entry: Entry, model: ModelConfig, cut: Cut) -> tuple[Tensor, ...]:
        """Read the shards that overlap the wanted slices, and cut them to size."""
        kind = entry.rule.kind
        if kind.dim is None:
            return kind.to_hf(self._shard(entry, 0), model)
        shapes = kind.hf_shapes(model)
        wanted = [kind.hf_range(shape[kind.dim], model, cut) for shape in shapes]
        # What one shard holds of the first Hugging Face tensor; of a vocabulary it may be more than the true rows.
        share = self._shard(entry, 0).shape[0] if kind.padded else shapes[0][kind.dim] // self.layout.tp
        start, stop = wanted[0]
        first = min(start // share, self.layout.tp - 1)
        ranks = range(first, max(first + 1, math.ceil(stop / share)))
        shards = [kind.to_hf(self._shard(entry, rank), model) for rank in ranks]
        return tuple(
            _narrow(parts, kind.dim, lo - first * parts[0].shape[kind.dim], hi - lo)
            for parts, (lo, hi) in zip(zip(*shards, strict=True), wanted, strict=True)
        )

    def _shard(self, entry: Entry, tp_rank: int) -> Tensor:
        """The tensor of one rank."""
        name, state = self._find(entry, tp_rank)
        if name is None:
            file = self._file(tp_rank, self._place(entry)[0])
            raise WeightsError(f"{file} lacks {entry.rule.mcore} of layer {entry.layer}")
        return state[name]

    def _find(self, entry: Entry, tp_rank: int) -> tuple[str | None, StateDict]:
        """The name under which a rank's file holds an entry, and the chunk it is in."""
        pp_rank, chunk, local = self._place(entry)
        state = self._chunks(tp_rank, pp_rank)[chunk]
        return next((name for name in entry.mcore_names(local) if name in state), None), state

    def _place(self, entry: Entry) -> tuple[int, int, int | None]:
        """Pipeline stage, chunk and local layer of an entry."""
        if entry.layer is not None:
            return self._layer_places[entry.layer]
        return (0, 0, None) if entry.rule.where == "first" else (self.layout.pp - 1, -1, None)

    @cached_property
    def _layer_places(self) -> dict[int, tuple[int, int, int]]:
        return {
            layer: (pp_rank, chunk, local)
            for pp_rank, chunk, placement in self.layout.stages(self._num_layers)
            for local, layer in enumerate(placement.layers)
            if layer is not None
        }

    @property
    def _num_layers(self) -> int:
        """Real layers: Megatron counts noops too."""
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
        if key not in self._files:
            file = self._file(tp_rank, pp_rank)
            self._files[key] = self._read(file)[1]
            if len(self._files[key]) != self.layout.num_chunks(self._num_layers):
                raise WeightsError(f"{file} holds {len(self._files[key])} virtual chunks, unlike {self._first_file}")
        return self._files[key]

    def _check_ranks(self, layout: Layout) -> None:
        """Stop at absent rank files, and at folders of another layout among them."""
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
        """The args and the chunks of one rank file, tensors mapped."""
        content = read_torch_file(file)
        if not isinstance(content, dict) or not isinstance(content.get("args"), argparse.Namespace):
            raise WeightsError(f"{file} is not a Megatron checkpoint: it has no args")
        refuse_placeholders({key: value for key, value in content.items() if key != "args"}, file, "the checkpoint")
        if content.get("checkpoint_version") != CHECKPOINT_VERSION:
            raise WeightsError(
                f"{file} has checkpoint_version {content.get('checkpoint_version')}; only {CHECKPOINT_VERSION} is "
                "supported, older ones order query, key and value differently"
            )
        chunks = [content["model"]] if "model" in content else list(_numbered_chunks(content))
        if not chunks or not all(isinstance(chunk, Mapping) for chunk in chunks):
            raise WeightsError(f"{file} holds no model")
        for name, value in ((name, value) for chunk in chunks for name, value in chunk.items()):
            if not isinstance(value, Tensor) and "_extra_state" not in name:
                raise WeightsError(f"{file}: {name} is a {type(value).__name__}, expected a tensor")
        return plain_args(content["args"]), chunks


def rank_folder(tp_rank: int, pp_rank: int, pp_size: int) -> str:
    """Megatron's name of a rank's folder: the stage is named only where there are several."""
    return f"mp_rank_{tp_rank:02d}" + (f"_{pp_rank:03d}" if pp_size > 1 else "")


def _numbered_chunks(content: Mapping[str, StateDict]) -> Iterator[StateDict]:
    """`model0`, `model1`, … of virtual pipeline stages."""
    chunk = 0
    while f"model{chunk}" in content:
        yield content[f"model{chunk}"]
        chunk += 1


def _expected(
    rules: RuleTable, model: ModelConfig, placement: Placement
) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Each local name of a chunk, all names under which it may be stored, and whether it may be absent."""
    where = {layer: local for local, layer in enumerate(placement.layers)}
    for local_name, entry in local_entries(rules, model, placement):
        is_output = local_name == OUTPUT_LAYER
        names = (local_name,) if is_output else entry.mcore_names(where.get(entry.layer))
        yield local_name, names, entry.rule.optional or (is_output and is_tied(model))


def _narrow(parts: Sequence[Tensor], dim: int, start: int, length: int) -> Tensor:
    whole = parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
    return whole.narrow(dim, start, length)
