"""Collectives among the tensor-parallel ranks of one model; with one rank they do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class TensorGroup:
    """This process's membership in a tensor-parallel group.

    `TensorGroup(rank=1, size=2, group=group)` is the second of two ranks; `TensorGroup()` is a rank on its own.

    Attributes:
        rank: Rank in the group.
        size: Number of ranks.
        group: Process group of torch.distributed; None for a single rank.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def __post_init__(self) -> None:
        """Check the rank.

        Raises:
            ValueError: The rank is outside [0, size).
        """
        if not 0 <= self.rank < self.size:
            raise ValueError(f"a tensor group of {self.size} ranks has no rank {self.rank}; give 0 to {self.size - 1}")

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum the ranks' tensors.

        Args:
            tensor: Values of any shape, dtype and any unit; float16 and bfloat16 are sent and summed in float32.

        Returns:
            The sum on every rank, in the shape and dtype of `tensor`.
        """
        if self.size == 1:
            return tensor
        wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.contiguous()
        dist.all_reduce(wide, dist.ReduceOp.SUM, self.group)
        return wide.to(tensor.dtype)

    def own_rows(self, count: int) -> slice:
        """Return this rank's share of `count` rows that all ranks have, possibly none; the shares are disjoint."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather_columns(self, tensor: Tensor) -> Tensor:
        """Concatenate every rank's logits or scores [rows, n] float32 to [rows, size * n]."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous(), self.group)
        return torch.cat(parts, dim=-1)

    def broadcast_from_first(self, tensor: Tensor) -> Tensor:
        """Broadcast the values of rank 0, float32 or integers of any shape and any unit.

        A sum with zeros, which involves no global rank and is supported by every backend.
        """
        if self.size == 1:
            return tensor
        return self.sum(tensor if self.rank == 0 else torch.zeros_like(tensor))
