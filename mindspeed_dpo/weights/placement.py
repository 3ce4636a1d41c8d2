"""Which global layers a pipeline stage (or a virtual chunk of it) holds. Pure integers.

A layer has a global index, its place in the model, and a local one that restarts at 0 in every chunk.
A noop layer takes a place in the numbering without having weights; it is written as None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mindspeed_dpo.weights.errors import WeightsError


@dataclass(frozen=True)
class Placement:
    """One chunk of one rank, or all of them together.

    Attributes:
        tp_rank: Place in the tensor-parallel group.
        tp_size: Size of that group.
        pp_rank: Pipeline stage.
        pp_size: Number of stages.
        layers: Global layer of each local one; None is a noop layer.
        first: The chunk holds the embedding.
        last: The chunk holds the final norm and the output layer.
    """

    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    layers: tuple[int | None, ...]
    first: bool
    last: bool

    @classmethod
    def even(
        cls, num_layers: int, *, tp_rank: int = 0, tp_size: int = 1, pp_rank: int = 0, pp_size: int = 1
    ) -> Placement:
        """The chunk of a rank when every stage holds the same number of layers.

        Raises:
            WeightsError: The stages do not divide the layers.
        """
        return Layout(tp_size, pp_size).placement(num_layers, tp_rank, pp_rank)


@dataclass(frozen=True)
class Layout:
    """How the ranks divide a model.

    Attributes:
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        layers_per_virtual_stage: Layers of one virtual chunk, or None for one chunk per stage.
        num_layer_list: Layers of each stage, or None for even stages.
        noop_layers: Places without weights, counted in the extended numbering.
    """

    tp: int = 1
    pp: int = 1
    layers_per_virtual_stage: int | None = None
    num_layer_list: tuple[int, ...] | None = None
    noop_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check what does not depend on the model.

        Raises:
            WeightsError: Sizes are not positive, or settings exclude each other.
        """
        if self.tp < 1 or self.pp < 1:
            raise WeightsError(f"parallel sizes must be at least 1, got TP {self.tp} and PP {self.pp}")
        if self.num_layer_list is not None and (self.noop_layers or self.layers_per_virtual_stage):
            raise WeightsError("num_layer_list cannot be combined with noop_layers or virtual pipeline stages")
        if self.layers_per_virtual_stage is not None and (self.layers_per_virtual_stage < 1 or self.pp == 1):
            raise WeightsError(
                f"{self.layers_per_virtual_stage} layers per virtual stage with PP {self.pp}: virtual stages need at "
                "least two pipeline stages and one layer each"
            )

    def num_chunks(self, num_layers: int) -> int:
        """Virtual chunks of each stage; 1 without virtual pipeline stages."""
        if self.layers_per_virtual_stage is None:
            return 1
        return self._extended(num_layers) // (self.pp * self.layers_per_virtual_stage)

    def placement(self, num_layers: int, tp_rank: int, pp_rank: int, chunk: int = 0) -> Placement:
        """The chunk of a rank.

        Args:
            num_layers: Real layers of the model, noops not counted.
            tp_rank: Place in the tensor-parallel group.
            pp_rank: Pipeline stage.
            chunk: Virtual chunk of the stage.

        Raises:
            WeightsError: The layers do not divide.
        """
        places = self._places(num_layers, pp_rank, chunk)
        numbering = self._numbering(num_layers)
        last_chunk = self.num_chunks(num_layers) - 1
        return Placement(
            tp_rank=tp_rank,
            tp_size=self.tp,
            pp_rank=pp_rank,
            pp_size=self.pp,
            layers=tuple(numbering[place] for place in places),
            first=pp_rank == 0 and chunk == 0,
            last=pp_rank == self.pp - 1 and chunk == last_chunk,
        )

    def of_rank(self, num_layers: int, tp_rank: int, pp_rank: int) -> Placement:
        """All chunks of a rank as one, their layers one chunk after the other. Raises what `placement` raises."""
        chunks = [self.placement(num_layers, tp_rank, pp_rank, chunk) for chunk in range(self.num_chunks(num_layers))]
        layers = tuple(layer for chunk in chunks for layer in chunk.layers)
        return replace(chunks[0], layers=layers, last=chunks[-1].last)

    def stages(self, num_layers: int, tp_rank: int = 0) -> Iterator[tuple[int, int, Placement]]:
        """Every (pipeline stage, chunk, placement) of one tensor-parallel rank."""
        for pp_rank in range(self.pp):
            for chunk in range(self.num_chunks(num_layers)):
                yield pp_rank, chunk, self.placement(num_layers, tp_rank, pp_rank, chunk)

    def _extended(self, num_layers: int) -> int:
        return num_layers + len(self.noop_layers)

    def _numbering(self, num_layers: int) -> list[int | None]:
        """The real layer at every place of the extended numbering."""
        extended = self._extended(num_layers)
        outside = [place for place in self.noop_layers if not 0 <= place < extended]
        if outside or len(set(self.noop_layers)) != len(self.noop_layers):
            places = list(self.noop_layers)
            raise WeightsError(f"noop_layers {places} must be different places from 0 to {extended - 1}")
        real = iter(range(num_layers))
        return [None if place in self.noop_layers else next(real) for place in range(extended)]

    def _places(self, num_layers: int, pp_rank: int, chunk: int) -> Sequence[int]:
        """The places of the extended numbering that a chunk holds."""
        extended, k = self._extended(num_layers), self.layers_per_virtual_stage
        if self.num_layer_list is not None:
            return self._listed(num_layers, pp_rank)
        if k is not None:
            self._must_divide(extended, self.pp * k, f"{self.pp} stages of {k} layers per virtual stage")
            start = chunk * self.pp * k + pp_rank * k
            return range(start, start + k)
        self._must_divide(extended, self.pp, f"{self.pp} pipeline stages")
        size = extended // self.pp
        return range(pp_rank * size, (pp_rank + 1) * size)

    def _listed(self, num_layers: int, pp_rank: int) -> Sequence[int]:
        sizes = self.num_layer_list or ()
        if len(sizes) != self.pp or sum(sizes) != num_layers or min(sizes) < 1:
            raise WeightsError(
                f"num_layer_list {list(sizes)} must give {self.pp} stages at least one layer each, {num_layers} in all"
            )
        return range(sum(sizes[:pp_rank]), sum(sizes[: pp_rank + 1]))

    def _must_divide(self, extended: int, parts: int, what: str) -> None:
        if extended % parts:
            noops = f" (with {len(self.noop_layers)} noop layers)" if self.noop_layers else ""
            fitting = ", ".join(str(size) for size in range(1, extended + 1) if extended % size == 0)
            raise WeightsError(
                f"{what} do not divide {extended} layers{noops}; choose a number of stages among {fitting}, or give "
                "num_layer_list"
            )
