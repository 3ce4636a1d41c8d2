"""Expert parallelism: the ranks of a pipeline stage that share the experts of each layer, and their exchange of rows.

A group is a run of consecutive ranks of a stage. It may span tensor-, context- and data-parallel ranks; every rank
holds as many experts, undivided. Notation: n ranks, h width of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.parallel.all_to_all import all_to_all


@dataclass(frozen=True)
class ExpertGroup:
    """This process's membership in an expert-parallel group.

    `ExpertGroup(rank=1, size=2, group=group)` holds experts 4 to 7 of a layer with 8; `ExpertGroup()` holds all.

    Attributes:
        rank: Rank in the group.
        size: Number of ranks.
        group: Process group of torch.distributed; None for a single rank.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @classmethod
    def current(cls) -> ExpertGroup:
        """Return the group that `process_groups.split` has created for this process."""
        size = parallel_state.get_expert_model_parallel_world_size()
        if size == 1:
            return cls()
        group = parallel_state.get_expert_model_parallel_group()
        return cls(group.rank(), size, group)

    def local_experts(self, num_experts: int) -> range:
        """Return the indices of the experts that this rank holds."""
        count = num_experts // self.size
        return range(self.rank * count, (self.rank + 1) * count)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether a flag is set on any rank; a collective."""
        if self.size == 1:
            return flag
        count = torch.tensor([int(flag)], dtype=torch.int32, device=device)
        dist.all_reduce(count, dist.ReduceOp.SUM, self.group)
        return int(count) > 0

    def exchange_counts(self, counts: Tensor) -> Tensor:
        """Exchange how many rows each rank sends to each expert.

        Args:
            counts: [experts] int64 rows of this rank for each expert of the layer.

        Returns:
            [n, experts / n] int64 rows that arrive from each rank for each expert of this rank.
        """
        sent = counts.view(self.size, -1)
        if self.size == 1:
            return sent
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, None, None, self.group)
        return received

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send runs of rows to the ranks and receive theirs, differentiably; also with no rows at all.

        Args:
            rows: [sum of sent, h] activations of any floating dtype, in the order of the ranks they are for.
            sent: [n] number of rows for each rank.
            received: [n] number of rows from each rank.

        Returns:
            [sum of received, h] in the same dtype, in the order of the ranks they are from.
        """
        if self.size == 1:
            return rows
        return all_to_all(rows, self.group, list(sent), list(received))
