"""The layers that a tensor-parallel rank of a pipeline stage, or of one model chunk of it, holds. Integers only.

A layer has a global index in the model and a local index that restarts at 0 in every chunk. A no-op layer has an index
but no weights; it is written as None. Model chunks are the virtual pipeline stages of an interleaved schedule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mindspeed_dpo.weights.errors import WeightsError


@dataclass(frozen=True)
class TPRank:
    """A rank of a tensor-parallel group; `TPRank(1, 4)` is the second of four, the default an unsharded model."""

    rank: int = 0
    size: int = 1


UNSHARDED = TPRank()


@dataclass(frozen=True)
class Placement:
    """The part of a model that one rank holds in one chunk, or in all of its chunks together.

    Rank 1 of TP 2 on the last of two stages of a 4-layer model:
    `Placement(tp_rank=1, tp_size=2, pp_rank=1, pp_size=2, layers=(2, 3), pre_process=False, post_process=True)`.

    Attributes:
        tp_rank: Rank in the tensor-parallel group.
        tp_size: Size of the tensor-parallel group.
        pp_rank: Pipeline stage.
        pp_size: Number of pipeline stages.
        layers: Global index of each local layer; None is a no-op layer.
        pre_process: Whether the embedding is part of it.
        post_process: Whether the final norm and the output layer are part of it.
        ep_rank: Rank in the expert-parallel group.
        ep_size: Size of the expert-parallel group; each of its ranks holds as many experts of a layer, undivided.
    """

    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    layers: tuple[int | None, ...]
    pre_process: bool
    post_process: bool
    ep_rank: int = 0
    ep_size: int = 1

    @property
    def tp(self) -> TPRank:
        """The tensor-parallel rank and the size of its group."""
        return TPRank(self.tp_rank, self.tp_size)

    def experts(self, num_experts: int) -> range:
        """Global indices of the experts that the rank holds in every layer with experts.

        Raises:
            WeightsError: The expert-parallel size does not divide the number of experts.
        """
        if num_experts % self.ep_size:
            raise WeightsError(
                f"expert-parallel size {self.ep_size} does not divide num_experts={num_experts}; choose a divisor"
            )
        count = num_experts // self.ep_size
        return range(self.ep_rank * count, (self.ep_rank + 1) * count)


@dataclass(frozen=True)
class ParallelLayout:
    """The division of a model between tensor- and pipeline-parallel ranks.

    `ParallelLayout(tp=8, pp=2, layers_per_virtual_stage=4)` divides 16 layers into two chunks on each of two stages:
    layers 0-3 and 8-11 on the first, 4-7 and 12-15 on the second.

    Attributes:
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        layers_per_virtual_stage: Layers of one model chunk, or None for one chunk per stage.
        num_layer_list: Layers of each stage, or None for stages of equal size.
        noop_layers: Indices without weights, in the numbering that counts no-op layers.
        ep: Expert-parallel size.
    """

    tp: int = 1
    pp: int = 1
    layers_per_virtual_stage: int | None = None
    num_layer_list: tuple[int, ...] | None = None
    noop_layers: tuple[int, ...] = ()
    ep: int = 1

    def __post_init__(self) -> None:
        """Check what does not depend on the model.

        Raises:
            WeightsError: A size is not positive, or settings exclude each other.
        """
        if self.tp < 1 or self.pp < 1 or self.ep < 1:
            raise WeightsError(f"parallel sizes must be at least 1, got TP {self.tp}, PP {self.pp} and EP {self.ep}")
        if self.num_layer_list is not None and (self.noop_layers or self.layers_per_virtual_stage):
            raise WeightsError("num_layer_list cannot be combined with noop_layers or virtual pipeline stages")
        if self.layers_per_virtual_stage is not None and (self.layers_per_virtual_stage < 1 or self.pp == 1):
            raise WeightsError(
                f"{self.layers_per_virtual_stage} layers per virtual stage with PP {self.pp}: virtual stages need at "
                "least two pipeline stages and one layer each"
            )

    def num_chunks(self, num_layers: int) -> int:
        """Model chunks of each stage; 1 without virtual pipeline stages."""
        if self.layers_per_virtual_stage is None:
            return 1
        return self._num_indices(num_layers) // (self.pp * self.layers_per_virtual_stage)

    def placement(self, num_layers: int, tp_rank: int, pp_rank: int, chunk: int = 0, ep_rank: int = 0) -> Placement:
        """The placement of one chunk of a rank.

        Args:
            num_layers: Layers of the model without no-op layers.
            tp_rank: Rank in the tensor-parallel group.
            pp_rank: Pipeline stage.
            chunk: Model chunk of the stage.
            ep_rank: Rank in the expert-parallel group.

        Raises:
            WeightsError: The layers cannot be divided in this way.
        """
        layer_at = self._layers_by_index(num_layers)
        last_chunk = self.num_chunks(num_layers) - 1
        return Placement(
            tp_rank=tp_rank,
            tp_size=self.tp,
            pp_rank=pp_rank,
            pp_size=self.pp,
            layers=tuple(layer_at[index] for index in self._chunk_indices(num_layers, pp_rank, chunk)),
            pre_process=pp_rank == 0 and chunk == 0,
            post_process=pp_rank == self.pp - 1 and chunk == last_chunk,
            ep_rank=ep_rank,
            ep_size=self.ep,
        )

    def rank_placement(self, num_layers: int, tp_rank: int, pp_rank: int, ep_rank: int = 0) -> Placement:
        """The placement of all chunks of a rank together, their layers in the order of the chunks.

        Raises what `placement` raises.
        """
        chunks = [
            self.placement(num_layers, tp_rank, pp_rank, chunk, ep_rank) for chunk in range(self.num_chunks(num_layers))
        ]
        layers = tuple(layer for chunk in chunks for layer in chunk.layers)
        return replace(chunks[0], layers=layers, post_process=chunks[-1].post_process)

    def stages(self, num_layers: int, tp_rank: int = 0) -> Iterator[tuple[int, int, Placement]]:
        """Every (pipeline stage, chunk, placement) of one tensor-parallel rank."""
        for pp_rank in range(self.pp):
            for chunk in range(self.num_chunks(num_layers)):
                yield pp_rank, chunk, self.placement(num_layers, tp_rank, pp_rank, chunk)

    def _num_indices(self, num_layers: int) -> int:
        return num_layers + len(self.noop_layers)

    def _layers_by_index(self, num_layers: int) -> list[int | None]:
        """The layer at every index of the numbering that counts no-op layers."""
        size = self._num_indices(num_layers)
        outside = [index for index in self.noop_layers if not 0 <= index < size]
        if outside or len(set(self.noop_layers)) != len(self.noop_layers):
            raise WeightsError(f"noop_layers {list(self.noop_layers)} must be distinct indices from 0 to {size - 1}")
        layers = iter(range(num_layers))
        return [None if index in self.noop_layers else next(layers) for index in range(size)]

    def _chunk_indices(self, num_layers: int, pp_rank: int, chunk: int) -> Sequence[int]:
        """The indices of a chunk in the numbering that counts no-op layers."""
        if self.num_layer_list is not None:
            return self._listed_indices(num_layers, pp_rank)
        size, per_chunk = self._num_indices(num_layers), self.layers_per_virtual_stage
        if per_chunk is not None:
            stages = f"{self.pp} stages of {per_chunk} layers per virtual stage"
            self._check_divides(size, self.pp * per_chunk, stages)
            start = (chunk * self.pp + pp_rank) * per_chunk
            return range(start, start + per_chunk)
        self._check_divides(size, self.pp, f"{self.pp} pipeline stages")
        per_stage = size // self.pp
        return range(pp_rank * per_stage, (pp_rank + 1) * per_stage)

    def _listed_indices(self, num_layers: int, pp_rank: int) -> Sequence[int]:
        sizes = self.num_layer_list or ()
        if len(sizes) != self.pp or sum(sizes) != num_layers or min(sizes) < 1:
            raise WeightsError(
                f"num_layer_list {list(sizes)} must give {self.pp} stages at least one layer each, {num_layers} in all"
            )
        return range(sum(sizes[:pp_rank]), sum(sizes[: pp_rank + 1]))

    def _check_divides(self, num_indices: int, divisor: int, stages: str) -> None:
        if num_indices % divisor:
            noops = f" (with {len(self.noop_layers)} noop layers)" if self.noop_layers else ""
            divisors = ", ".join(str(size) for size in range(1, num_indices + 1) if num_indices % size == 0)
            raise WeightsError(
                f"{stages} do not divide {num_indices} layers{noops}; use one of {divisors} stages, or give "
                "num_layer_list"
            )
