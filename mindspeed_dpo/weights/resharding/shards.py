"""The tensors of one process, and the regions of the model's unsharded tensors that they cover.

Names are Megatron's with the layer's index in the model. An unsharded tensor has the form it would have with
tensor-parallel size 1, without padded vocabulary rows. The tensors of each expert are tensors of their own, which
expert-parallel ranks hold undivided. Nothing here depends on how the other side divides the model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.families.expert_tensors import EXPERT_BIAS
from mindspeed_dpo.weights.layer_placement import Placement
from mindspeed_dpo.weights.model_sizes import Shape
from mindspeed_dpo.weights.name_mapping import OUTPUT_LAYER, is_tied, local_entries, model_entries
from mindspeed_dpo.weights.tensor_layouts import TensorLayout


@dataclass(frozen=True)
class Region:
    """A part of an unsharded tensor that this process holds.

    Rank 1 of TP 2 holds the right half of a [32, 48] matrix that is split along its columns:
    `Region(tensor=..., row=0, column=24)` with a tensor [32, 24].

    Attributes:
        tensor: A view of the process's tensor.
        row: First row in the unsharded tensor.
        column: First column in the unsharded tensor; 0 for a vector.
    """

    tensor: Tensor
    row: int
    column: int


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and dtype of an unsharded tensor, such as ("output_layer.weight", (128256, 2048), "bfloat16")."""

    name: str
    shape: Shape
    dtype: str

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


class Shards:
    """The tensors of one pipeline stage on one process."""

    def __init__(self, model: ModelConfig, tensors: Mapping[str, Tensor], placement: Placement) -> None:
        """Reference the tensors without copying them.

        Args:
            model: The architecture.
            tensors: Weights by Megatron's local name, such as a module's named parameters: each in the shape of this
                rank's part and any dtype.
            placement: The part of the model that the process holds.

        Raises:
            WeightsError: A tensor is not part of the model, or has another shape than the model requires.
        """
        self.model = model
        self._tp, self._placement = placement.tp, placement
        self._shards: dict[str, tuple[TensorLayout, Tensor]] = {}
        self._experts: set[str] = set()
        self._dtypes: dict[str, torch.dtype] = {}
        entries = dict(local_entries(rules_for(model), model, placement))
        for name, tensor in tensors.items():
            if name not in entries:
                raise WeightsError(f"{name} is among the weights of this process, but not in its part of the model")
            self._check_shape(name, tensor, entries[name].layout)
        for name, entry in entries.items():
            # The last stage's copy of a tied embedding is sent by the first stage.
            if name in tensors and not (name == OUTPUT_LAYER and is_tied(model)):
                self._shards[entry.global_name] = entry.layout, tensors[name]
                self._dtypes[entry.rule.mcore] = tensors[name].dtype
                if entry.expert is not None:
                    self._experts.add(entry.global_name)

    def specs(self) -> tuple[TensorSpec, ...]:
        """The unsharded tensors of which this process holds a shard, and those of the other experts in its layers.

        They are in the model's order, and equal on all processes of a stage.
        """
        return tuple(self._specs())

    def _specs(self) -> Iterator[TensorSpec]:
        stage = replace(self._placement, ep_rank=0, ep_size=1)
        for _, entry in local_entries(rules_for(self.model), self.model, stage):
            name, is_elsewhere = entry.global_name, entry.expert is not None and entry.rule.mcore in self._dtypes
            if name in self._shards or is_elsewhere:
                dtype = str(self._dtypes[entry.rule.mcore]).removeprefix("torch.")
                yield TensorSpec(name, full_shape(entry.layout, self.model), dtype)

    def is_expert(self, name: str) -> bool:
        """Whether this process holds a tensor that is part of an expert."""
        return name in self._experts

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return next(iter(self._shards.values()))[1].device

    def owned_regions(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """The regions as of `regions`, but a replicated tensor is owned by the first tensor-parallel rank alone.

        An expert is owned by every process that holds it.
        """
        if name not in self._shards:
            return
        layout, _ = self._shards[name]
        if layout.partition_dim is not None or self._tp.rank == 0 or self.is_expert(name):
            yield from self.regions(name, start, stop)

    def regions(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """The regions of rows `start` to `stop` of an unsharded tensor that this process holds; none of others."""
        if name not in self._shards:
            return
        layout, tensor = self._shards[name]
        tensor = tensor.detach()
        if layout.partition_dim == 0:
            yield from self._row_regions(layout, tensor, start, stop)
        elif layout.partition_dim is None:
            yield Region(tensor[start:stop], start, 0)
        else:
            ((column, _),) = layout.mcore_ranges(self.model, self._tp)
            yield Region(tensor[start:stop], start, column)

    def _row_regions(self, layout: TensorLayout, tensor: Tensor, start: int, stop: int) -> Iterator[Region]:
        offset = 0
        for first, last in layout.mcore_ranges(self.model, self._tp):
            low, high = max(first, start), min(last, stop)
            if low < high:
                yield Region(tensor[offset + low - first : offset + high - first], low, 0)
            offset += last - first

    def _check_shape(self, name: str, tensor: Tensor, layout: TensorLayout) -> None:
        expected = layout.mcore_shape(self.model, self._tp.size)
        if tuple(tensor.shape) != expected:
            raise WeightsError(f"{name} is {list(tensor.shape)} in this process, but the model has {list(expected)}")


def full_shape(layout: TensorLayout, model: ModelConfig) -> Shape:
    """Shape of an unsharded Megatron tensor without padded rows."""
    return layout.hf_shapes(model)[0] if layout.is_padded else layout.mcore_shape(model, 1)


def full_shapes(model: ModelConfig) -> dict[str, Shape]:
    """The unsharded shape of every tensor of the model by name, in order, without a tied output layer."""
    return {e.global_name: full_shape(e.layout, model) for e in model_entries(rules_for(model), model)}


def empty_tensors(
    model: ModelConfig, placement: Placement, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Zero weights of a placement by local name, in the dtype given and the shape of a rank's Megatron tensors.

    A transfer leaves padded vocabulary rows at zero. The matrices of a layer's experts lie one after the other in
    memory, as grouped products need them. The bias of routers is float32 for any dtype, as in training.

    Raises:
        WeightsError: The tensor-parallel size does not divide the model.
    """
    rules = rules_for(model)
    for rule in rules:
        rule.layout.check_tp_size(model, placement.tp_size)
    blocks: dict[tuple[str, int | None], dict[str, Shape]] = defaultdict(dict)
    for name, entry in local_entries(rules, model, placement):
        blocks[entry.rule.mcore, entry.layer][name] = entry.layout.mcore_shape(model, placement.tp_size)
    tensors: dict[str, Tensor] = {}
    for (tensor, _), shapes in blocks.items():
        block_dtype = torch.float32 if tensor.endswith(EXPERT_BIAS) else dtype
        block = torch.zeros(len(shapes), *next(iter(shapes.values())), dtype=block_dtype, device=device)
        tensors |= dict(zip(shapes, block.unbind(0), strict=True))
    return tensors
