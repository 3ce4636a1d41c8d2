"""Rank arithmetic in megatron-core's order tp-cp-ep-dp-pp: tensor-parallel ranks vary fastest, pipeline ranks slowest.

It imports no torch, so that the driver can use it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Topology:
    """Sizes of the parallel axes of a job.

    `Topology(tp=2, pp=2, dp=2)` is a job of 8 processes, as is `Topology.of(8, tp=2, pp=2)`.

    Attributes:
        tp: Tensor-parallel size.
        pp: Pipeline-parallel size.
        dp: Data-parallel size.
        cp: Context-parallel size.
        ep: Expert-parallel size: consecutive ranks of a stage, whichever of the other axes they are on, that share the
            experts.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1

    @classmethod
    def of(cls, world_size: int, tp: int, pp: int, cp: int = 1, ep: int = 1) -> Topology:
        """Derive the data-parallel size from the number of processes.

        Raises:
            ValueError: The world size is not divisible by tp * cp * pp, or a stage's ranks are not divisible by ep.
        """
        replica = tp * cp * pp
        if world_size % replica:
            raise ValueError(
                f"{world_size} processes cannot be split into tensor_model_parallel_size={tp} times "
                f"context_parallel_size={cp} times pipeline_model_parallel_size={pp}; use a multiple of {replica} "
                "processes"
            )
        if world_size // pp % ep:
            raise ValueError(
                f"expert_model_parallel_size={ep} does not divide the {world_size // pp} processes of a pipeline "
                "stage; use a divisor"
            )
        return cls(tp, pp, world_size // replica, cp, ep)

    @property
    def world_size(self) -> int:
        """Number of processes of the job."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def replicas_share_experts(self) -> bool:
        """Whether ranks of several replicas share experts, so that no replica can do a pass alone."""
        return self.tp * self.cp % self.ep != 0

    def place(self, rank: int) -> ParallelRank:
        """Return the coordinates of a global rank."""
        rest, tp_rank = divmod(rank, self.tp)
        rest, cp_rank = divmod(rest, self.cp)
        pp_rank, dp_rank = divmod(rest, self.dp)
        return ParallelRank(self, tp_rank=tp_rank, dp_rank=dp_rank, pp_rank=pp_rank, cp_rank=cp_rank)


@dataclass(frozen=True)
class ParallelRank:
    """Coordinates of one process on the parallel axes.

    Example: process 5 of 8.

        Topology(tp=2, pp=2, dp=2).place(5) == ParallelRank(Topology(tp=2, pp=2, dp=2), tp_rank=1, dp_rank=0, pp_rank=1)
    """

    topology: Topology
    tp_rank: int
    dp_rank: int
    pp_rank: int
    cp_rank: int = 0

    @property
    def stage_rank(self) -> int:
        """Rank among the processes of the pipeline stage."""
        sizes = self.topology
        return self.tp_rank + sizes.tp * (self.cp_rank + sizes.cp * self.dp_rank)

    @property
    def ep_rank(self) -> int:
        """Rank in the expert-parallel group, a run of consecutive ranks of the stage."""
        return self.stage_rank % self.topology.ep

    @property
    def is_last_stage(self) -> bool:
        """Whether this process holds the output layer."""
        return self.pp_rank == self.topology.pp - 1

    @property
    def is_output(self) -> bool:
        """Whether this process reports for its data-parallel replica; exactly one process per replica does."""
        return self.is_last_stage and self.tp_rank == 0 and self.cp_rank == 0

    @property
    def reports_metrics(self) -> bool:
        """Whether this process reports the metrics of all replicas; exactly one process does."""
        return self.is_output and self.dp_rank == 0

    @property
    def holds_first_copy(self) -> bool:
        """Whether this process holds the first copy of its weights; every data- and context-parallel rank has one."""
        return self.dp_rank == 0 and self.cp_rank == 0

    @property
    def holds_first_experts(self) -> bool:
        """Whether this process holds the first copy of its experts, which may be beside another copy of the rest."""
        return self.stage_rank < self.topology.ep
