"""The tensor-parallel ranks that split one model's matrices, seen from one of them; one rank alone needs no group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class TensorGroup:
    """Where this process stands among the ranks, and what they do together.

    Attributes:
        rank: Place in the group.
        size: Number of ranks.
        group: Process group of torch, or None when there is one rank.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    def __post_init__(self) -> None:
        """Check that the rank lies in the group.

        Raises:
            ValueError: It does not.
        """
        if not 0 <= self.rank < self.size:
            raise ValueError(f"a tensor group of {self.size} ranks has no rank {self.rank}; give 0 to {self.size - 1}")

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every rank's tensor, in its dtype; low precision travels and is added up in float32."""
        if self.size == 1:
            return tensor
        wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.contiguous()
        dist.all_reduce(wide, dist.ReduceOp.SUM, self.group)
        return wide.to(tensor.dtype)

    def gather_columns(self, tensor: Tensor) -> Tensor:
        """Every rank's [rows, n] float32 side by side: [rows, size * n]."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous(), self.group)
        return torch.cat(parts, dim=-1)

    def from_first(self, tensor: Tensor) -> Tensor:
        """What rank 0 holds, float32 or integers, on all ranks.

        A sum with zeros, because it needs no global rank and every backend carries it.
        """
        if self.size == 1:
            return tensor
        return self.sum(tensor if self.rank == 0 else torch.zeros_like(tensor))
