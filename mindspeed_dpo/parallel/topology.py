"""Ranks and axes as pure integers: tensor parallel runs fastest, then context, then data parallel, pipeline slowest.

This is megatron-core's order (tp-cp-ep-dp-pp). No torch here, so the driver can reason about ranks too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """The axes of a training job.

    Attributes:
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        dp: Data-parallel size.
        cp: Context-parallel size.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1

    @classmethod
    def of(cls, world_size: int, tp: int, pp: int, cp: int = 1) -> Topology:
        """The topology that fills `world_size` processes.

        Raises:
            ValueError: tp * cp * pp does not divide the world size.
        """
        replica = tp * cp * pp
        if world_size % replica:
            raise ValueError(
                f"{world_size} processes cannot be split into tensor_model_parallel_size={tp} times "
                f"context_parallel_size={cp} times pipeline_model_parallel_size={pp}; use a multiple of {replica} "
                "processes"
            )
        return cls(tp, pp, world_size // replica, cp)

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.tp * self.cp * self.dp * self.pp

    def place(self, rank: int) -> Place:
        """Where a global rank stands on each axis."""
        rest, tp_rank = divmod(rank, self.tp)
        rest, cp_rank = divmod(rest, self.cp)
        pp_rank, dp_rank = divmod(rest, self.dp)
        return Place(self, tp_rank=tp_rank, dp_rank=dp_rank, pp_rank=pp_rank, cp_rank=cp_rank)


@dataclass(frozen=True)
class Place:
    """One process's coordinates."""

    topology: Topology
    tp_rank: int
    dp_rank: int
    pp_rank: int
    cp_rank: int = 0

    @property
    def is_first_stage(self) -> bool:
        """Whether this process holds the embedding."""
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this process holds the head."""
        return self.pp_rank == self.topology.pp - 1

    @property
    def is_output(self) -> bool:
        """Whether this process speaks for its data-parallel replica: one per replica does."""
        return self.is_last_stage and self.tp_rank == 0 and self.cp_rank == 0

    @property
    def holds_first_copy(self) -> bool:
        """Whether its weights are the copy that speaks for all: every data- and context-parallel rank holds one."""
        return self.dp_rank == 0 and self.cp_rank == 0


def shard(count: int, dp_rank: int, dp: int) -> range:
    """Positions of a data-parallel rank among `count` items: contiguous, sizes differing by at most one."""
    base, rest = divmod(count, dp)
    start = dp_rank * base + min(dp_rank, rest)
    return range(start, start + base + (dp_rank < rest))
