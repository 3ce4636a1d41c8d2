"""A Megatron checkpoint of one file per rank (`mp_rank_*/model_optim_rng.pt`) as a source of weights.

Files of any tensor-, pipeline- and expert-parallel layout are read, whether converters or training wrote them.
Selecting the iteration folder is left to `format_detection`, the files themselves to `rank_files`, comparing names to
`name_differences`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.hf.hf_assets import find_assets
from mindspeed_dpo.weights.layer_placement import ParallelLayout, TPRank
from mindspeed_dpo.weights.legacy.expert_detection import detect_storage, expert_state
from mindspeed_dpo.weights.legacy.expert_storage import DEFAULT_STORAGE, ExpertStorage
from mindspeed_dpo.weights.legacy.legacy_args import layout_from_args, model_from_args
from mindspeed_dpo.weights.legacy.legacy_expert_args import sizes_from_args
from mindspeed_dpo.weights.legacy.name_differences import NameComparison
from mindspeed_dpo.weights.legacy.rank_files import RankFiles, StateDict
from mindspeed_dpo.weights.legacy.rank_folders import check_folders, has_undivided_experts, rank_folder
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import OUTPUT_LAYER, SCORE_HEAD, TensorEntry, embedding_entry, is_tied
from mindspeed_dpo.weights.shape_checks import check_mcore_shape, check_shape
from mindspeed_dpo.weights.slice_ranges import narrow, range_of
from mindspeed_dpo.weights.tensor_layouts import TensorLayout
from mindspeed_dpo.weights.weight_source import WeightSource

Place = tuple[int, int, int]
"""Tensor-parallel rank, expert-parallel rank, and the index of an expert in the file (0 for other tensors)."""


class LegacySource(WeightSource):
    """An iteration folder of rank files.

    Attributes:
        extends_ep: Whether experts are divided as with `moe_tp_extend_ep`, if the user has set it.
    """

    extends_ep: bool | None = None

    def __init__(self, path: Path, folder: Path) -> None:
        """Open the checkpoint `path`, whose rank files are in `folder`."""
        self.path = path
        self.folder = folder
        self._files = RankFiles(folder)

    @cached_property
    def is_reward_model(self) -> bool:
        """Whether the last stage holds a score head."""
        return SCORE_HEAD in self._chunks(0, self.layout.pp - 1)[-1]

    def model_config(self) -> ModelConfig:
        """The architecture of the stored args."""
        return model_from_args(self._args, self._files.first)

    @cached_property
    def layout(self) -> ParallelLayout:
        """The division of the model between the rank files."""
        layout = layout_from_args(self._args, len(self._files.first_content[1]), self._files.first)
        check_folders(self.folder, self._files.folder_names, layout)
        return layout

    @cached_property
    def storage(self) -> ExpertStorage:
        """The storage of experts in the rank files, by the first layer that has some."""
        layout = self.layout
        for pp_rank in range(layout.pp):
            for chunk in self._chunks(0, pp_rank):
                state = expert_state(chunk)
                if state:
                    return detect_storage(
                        state,
                        layout,
                        self._args,
                        is_diagonal=has_undivided_experts(self._files.folder_names, layout),
                        extends_ep=self.extends_ep,
                        file=self._files.path(layout, 0, pp_rank, 0),
                    )
        return DEFAULT_STORAGE

    def assets(self) -> Path | None:
        """The Hugging Face files stored in the checkpoint."""
        return find_assets(self.path)

    def weight_files(self) -> Sequence[Path]:
        """The files of all ranks."""
        layout = self.layout
        ranks = self.storage.ranks(layout)
        return [self._files.path(layout, *(t, p, e)) for p in range(layout.pp) for t, e in ranks]

    def has(self, entry: TensorEntry) -> bool:
        """Whether every shard is stored."""
        return all(self._find(entry, place)[0] is not None for place in self._places(entry))

    def name_mismatches(self, model: ModelConfig) -> tuple[list[str], list[str]]:
        """Missing and unexpected names, by the keys of all rank files; `_extra_state` is ignored.

        Raises:
            WeightsError: The number of layers, or of experts, differs, or there are layers that predict further
                tokens, and they are not to be left out.
        """
        if model.num_layers != self._num_layers:
            raise WeightsError(f"{self.path} holds {self._num_layers} layers, but the model has {model.num_layers}")
        stored = getattr(self._args, "num_experts", None) or None
        if model.num_experts != stored:
            raise WeightsError(
                f"{self.path} holds {stored or 'no'} experts of each layer, but the model has "
                f"{model.num_experts or 'none'}"
            )
        names = NameComparison(self.rules(model), self.ignored_rules(model), model, self.layout, self.storage)
        for pp_rank, chunk, placement in self.layout.stages(model.num_layers):
            for tp_rank, ep_rank in self.storage.ranks(self.layout):
                state = self._chunks(tp_rank, pp_rank, ep_rank)[chunk]
                names.compare(placement, rank_folder(self.layout, tp_rank, pp_rank, ep_rank), (tp_rank, ep_rank), state)
        self._leave_out_mtp(names.mtp)
        return names.missing, names.unexpected

    def check_tied_copies(self, model: ModelConfig) -> None:
        """Check that the last stage's copy of a tied embedding equals the embedding.

        Raises:
            WeightsError: They differ.
        """
        if not is_tied(model) or self.layout.pp == 1 or self.is_reward_model:
            return
        for place in self._places(embedding_entry(self.rules(model))):
            copy = self._chunks(place[0], self.layout.pp - 1, place[1])[-1].get(OUTPUT_LAYER)
            name, state = self._find(embedding_entry(self.rules(model)), place)
            if copy is not None and name is not None and not torch.equal(copy, state[name]):
                file = self._files.path(self.layout, place[0], self.layout.pp - 1, place[1])
                raise WeightsError(
                    f"{file}: {OUTPUT_LAYER} differs from the embedding it is tied to; if the model is untied, its "
                    "config must say so"
                )

    def check_shapes(self, entry: TensorEntry, model: ModelConfig) -> None:
        """Compare the shape of every rank's shard with the model."""
        layout = self._stored_layout(entry)
        for place in self._places(entry):
            name = self._find(entry, place)[0] or entry.rule.mcore
            shape, file = tuple(self._stored(entry, place).shape), self._file_of(entry, place)
            if entry.expert is None:
                check_mcore_shape(shape, layout, model, self.layout.tp, file, name)
            else:
                count = self.storage.experts_per_rank(self._num_experts, self.layout)
                expected = self.storage.stored_shape(name, self._matrix_shape(entry, model), count)
                check_shape(shape, expected, file, f"{name} (expert {entry.expert} of layer {entry.layer})")

    def read_slices(self, entry: TensorEntry, model: ModelConfig, tp: TPRank) -> tuple[Tensor, ...]:
        """Read the shards of the weights that overlap a rank's slices; dtype and shape of each as in the base class."""
        stored, places = self._stored_layout(entry), self._places(entry)
        shapes, dim = stored.hf_shapes(model), stored.partition_dim
        ranges = [range_of(entry.layout, shape, dim or 0, model, tp) for shape in shapes]
        if dim is None:
            slices = stored.to_hf(self._shard(entry, places[0], model), model)
            return tuple(narrow([part], bounds) for part, bounds in zip(slices, ranges, strict=True))
        # What one shard holds of the first Hugging Face tensor; shards of a vocabulary may include padded rows.
        share = self._stored(entry, places[0]).shape[0] if stored.is_padded else shapes[0][dim] // self.layout.tp
        first = min(ranges[0].start // share, self.layout.tp - 1)
        needed = places[first : max(first + 1, math.ceil(ranges[0].stop / share))]
        shards = [stored.to_hf(self._shard(entry, place, model), model) for place in needed]
        return tuple(
            narrow(parts, bounds, offset=first * parts[0].shape[dim])
            for parts, bounds in zip(zip(*shards, strict=True), ranges, strict=True)
        )

    def _shard(self, entry: TensorEntry, place: Place, model: ModelConfig) -> Tensor:
        """The matrix of one rank in Megatron's form; for an expert, its part of the stored tensor."""
        stored = self._stored(entry, place)
        if entry.expert is None:
            return stored
        return self.storage.matrix(stored, place[2], self._matrix_shape(entry, model))

    def _matrix_shape(self, entry: TensorEntry, model: ModelConfig) -> Shape:
        """The shape of an expert's matrix, or of a slice of it, in a file."""
        return self._stored_layout(entry).mcore_shape(model, self.layout.tp)

    def _stored(self, entry: TensorEntry, place: Place) -> Tensor:
        """The stored tensor of one rank."""
        name, state = self._find(entry, place)
        if name is None:
            expert = "" if entry.expert is None else f", expert {entry.expert}"
            raise WeightsError(f"{self._file_of(entry, place)} lacks {entry.rule.mcore} of layer {entry.layer}{expert}")
        return state[name]

    def _stored_layout(self, entry: TensorEntry) -> TensorLayout:
        return self.storage.layout(entry.layout) if entry.rule.where == "expert" else entry.layout

    def _find(self, entry: TensorEntry, place: Place) -> tuple[str | None, StateDict]:
        """The name of an entry in a rank's file, and the chunk that holds it."""
        pp_rank, chunk, local = self._location(entry)
        state = self._chunks(place[0], pp_rank, place[1])[chunk]
        names = [self.storage.stored_name(name) for name in entry.mcore_names(local, place[2])]
        return next((name for name in names if name in state), None), state

    def _file_of(self, entry: TensorEntry, place: Place) -> Path:
        return self._files.path(self.layout, place[0], self._location(entry)[0], place[1])

    def _places(self, entry: TensorEntry) -> list[Place]:
        """The places where an entry is stored: its slices in order, or one place that has all of it."""
        if entry.expert is None:
            return [(tp_rank, self.storage.copy_of(tp_rank, self.layout), 0) for tp_rank in range(self.layout.tp)]
        return self.storage.holders(entry.expert, self._num_experts, self.layout)

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

    @property
    def _num_experts(self) -> int:
        return sizes_from_args(self._args, self._files.first).num_experts

    @property
    def _args(self) -> argparse.Namespace:
        return self._files.first_content[0]

    def _chunks(self, tp_rank: int, pp_rank: int, ep_rank: int | None = None) -> list[StateDict]:
        """The chunks of a rank; without an expert-parallel rank, of one that has a file."""
        layout = self.layout
        if ep_rank is None:
            ep_rank = tp_rank % layout.ep if has_undivided_experts(self._files.folder_names, layout) else 0
        return self._files.chunks(self._files.path(layout, tp_rank, pp_rank, ep_rank))
