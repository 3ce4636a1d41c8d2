"""The tensors of one process, and where each lies in the whole tensor of the model.

Names are those of Megatron with the layer's place in the model; a whole tensor has the form of one tensor-parallel rank
and only the true rows of the vocabulary. So nothing here depends on how the other side divides the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.config.settings.model import ModelConfig
from mindspeed_dpo.weights.errors import WeightsError
from mindspeed_dpo.weights.families import rules_for
from mindspeed_dpo.weights.layouts import Cut, Kind, Shape
from mindspeed_dpo.weights.placement import Placement
from mindspeed_dpo.weights.rules import OUTPUT_LAYER, Entry, is_tied, local_entries, model_entries


@dataclass(frozen=True)
class Region:
    """A part of a whole tensor that this process holds.

    Attributes:
        tensor: A view of the process's tensor.
        row: First row in the whole.
        column: First column in the whole; 0 for a vector.
    """

    tensor: Tensor
    row: int
    column: int


@dataclass(frozen=True)
class Described:
    """A whole tensor as its holder knows it."""

    name: str
    shape: Shape
    dtype: str

    def __str__(self) -> str:
        return f"{list(self.shape)} {self.dtype}"


class Shards:
    """The tensors of one pipeline stage on one tensor-parallel rank."""

    def __init__(self, model: ModelConfig, tensors: Mapping[str, Tensor], placement: Placement) -> None:
        """Look at the tensors; they are kept, not copied.

        Args:
            model: The architecture.
            tensors: By Megatron's local names, such as a module's named parameters.
            placement: What the process holds.

        Raises:
            WeightsError: A tensor has no place in the model, or another shape than the model gives it.
        """
        self.model = model
        self._cut = Cut(placement.tp_rank, placement.tp_size)
        self._parts: dict[str, tuple[Kind, Tensor]] = {}
        entries = dict(local_entries(rules_for(model), model, placement))
        for name, tensor in tensors.items():
            if name not in entries:
                raise WeightsError(f"{name} is among the weights of this process, but not in its part of the model")
            self._check_shape(name, tensor, entries[name].rule.kind)
        for name, entry in entries.items():
            # The last stage's copy of a tied embedding is the first stage's to publish.
            if name in tensors and not (name == OUTPUT_LAYER and is_tied(model)):
                self._parts[global_name(entry)] = entry.rule.kind, tensors[name]

    def describe(self) -> tuple[Described, ...]:
        """The whole tensors of which this process holds parts, in the model's order."""
        return tuple(
            Described(name, whole_shape(kind, self.model), str(tensor.dtype).removeprefix("torch."))
            for name, (kind, tensor) in self._parts.items()
        )

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return next(iter(self._parts.values()))[1].device

    def own(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """As `regions`; of what every rank holds alike, only the first rank's counts."""
        kind, _ = self._parts[name]
        if kind.dim is not None or self._cut.rank == 0:
            yield from self.regions(name, start, stop)

    def regions(self, name: str, start: int, stop: int) -> Iterator[Region]:
        """What this process holds of rows `start` to `stop` of a whole tensor."""
        kind, tensor = self._parts[name]
        tensor = tensor.detach()
        if kind.dim == 0:
            yield from self._rows(kind, tensor, start, stop)
        elif kind.dim is None:
            yield Region(tensor[start:stop], start, 0)
        else:
            ((column, _),) = kind.mcore_ranges(self.model, self._cut)
            yield Region(tensor[start:stop], start, column)

    def _rows(self, kind: Kind, tensor: Tensor, start: int, stop: int) -> Iterator[Region]:
        offset = 0
        for first, last in kind.mcore_ranges(self.model, self._cut):
            low, high = max(first, start), min(last, stop)
            if low < high:
                yield Region(tensor[offset + low - first : offset + high - first], low, 0)
            offset += last - first

    def _check_shape(self, name: str, tensor: Tensor, kind: Kind) -> None:
        expected = kind.mcore_shape(self.model, self._cut.size)
        if tuple(tensor.shape) != expected:
            raise WeightsError(f"{name} is {list(tensor.shape)} in this process, but the model says {list(expected)}")


def global_name(entry: Entry) -> str:
    """Megatron's name with the layer's place in the model."""
    return entry.mcore_names(entry.layer)[0]


def whole_shape(kind: Kind, model: ModelConfig) -> Shape:
    """Shape of the tensor of all ranks together, without padded rows."""
    return kind.hf_shapes(model)[0] if kind.padded else kind.mcore_shape(model, 1)


def whole_shapes(model: ModelConfig) -> dict[str, Shape]:
    """Every tensor of the model by name, in order; a tied output layer is none of its own."""
    return {global_name(e): whole_shape(e.rule.kind, model) for e in model_entries(rules_for(model), model)}


def empty_tensors(
    model: ModelConfig, placement: Placement, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Zeros in the form of a process's tensors, by local name; padded rows of a vocabulary stay so.

    Raises:
        WeightsError: The tensor-parallel size does not divide the model.
    """
    rules, tp = rules_for(model), placement.tp_size
    for rule in rules:
        rule.kind.check_tp(model, tp)
    return {
        name: torch.zeros(entry.rule.kind.mcore_shape(model, tp), dtype=dtype, device=device)
        for name, entry in local_entries(rules, model, placement)
    }
