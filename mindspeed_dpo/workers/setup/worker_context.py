"""The context of a worker process: the run, its place in the layout, its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.parallel.topology import ParallelRank


@dataclass(frozen=True)
class WorkerContext:
    """The run, the place and the device, which all roles of a worker process have in common.

    Example:
        WorkerContext(run, Topology.of(8, tp=2, pp=2).place(5), find_accelerator("npu"))

    Attributes:
        run: Settings of the run.
        place: Ranks of this process in each parallel dimension.
        accelerator: Kind of device, already activated.
    """

    run: RunConfig
    place: ParallelRank
    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """The torch device of this process."""
        return self.accelerator.device()

    def place_of(self, role: RoleConfig) -> ParallelRank:
        """Return the ranks of this process for a role: a dense model does not see who shares experts of another."""
        if role.model.has_experts:
            return self.place
        return replace(self.place, topology=replace(self.place.topology, ep=1))


def max_over_ranks(context: WorkerContext, values: Sequence[Tensor | float]) -> list[float]:
    """Return the largest value of any process of the pool, for each of some non-negative scalars; a collective.

    It sums a matrix over ranks in which each rank fills its own row, which every backend supports; float32 keeps seven
    digits.
    """
    rows = torch.zeros(dist.get_world_size(), len(values), dtype=torch.float32, device=context.device)
    for index, value in enumerate(values):
        rows[dist.get_rank(), index] = value
    dist.all_reduce(rows, dist.ReduceOp.SUM)
    largest: list[float] = rows.amax(0).tolist()
    return largest
