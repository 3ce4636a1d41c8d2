"""Context parallelism over attention heads, after DeepSpeed-Ulysses (arXiv:2309.14509).

Every module computes its own rank's positions. Only attention needs all of them: an all-to-all before it turns T / c
positions of all heads into all T positions of 1 / c of the heads, and another one after it turns them back.
Notation: c ranks, T positions of the packed row, d head dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.batches import RowPart
from mindspeed_dpo.parallel.all_to_all import all_to_all


def num_key_heads_per_rank(groups: int, size: int) -> int:
    """Compute the number of key heads per rank during attention; fewer query groups than ranks are repeated."""
    return math.lcm(groups, size) // size


@dataclass(frozen=True)
class ContextGroup:
    """The context-parallel ranks that compute one packed row together.

    `ContextGroup(2, parallel_state.get_context_parallel_group())` are two ranks with half of the positions each.

    Attributes:
        size: Number of ranks, at least 2.
        group: Process group of torch.distributed.
    """

    size: int
    group: Any

    @classmethod
    def of(cls, size: int) -> ContextGroup | None:
        """Return the group of this process, or None for a context-parallel size of 1."""
        return cls(size, parallel_state.get_context_parallel_group()) if size > 1 else None

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Exchange this rank's positions of all heads for all positions of this rank's heads.

        Rank r receives the r-th run of query heads and the key heads they attend to. If the number of key heads is not
        divisible by c, key heads are repeated first and backward sums the gradients of the copies.

        Args:
            query: [T / c, heads, d] activations of any floating dtype, heads a multiple of c.
            key: [T / c, groups, d] activations.
            value: [T / c, groups, d] activations.

        Returns:
            Query [T, heads / c, d], key and value [T, `num_key_heads_per_rank`, d] in the dtype of the inputs; query
            head i attends to key head i // (query heads / key heads), as before.
        """
        copies = num_key_heads_per_rank(key.shape[1], self.size) * self.size // key.shape[1]
        if copies > 1:
            key, value = key.repeat_interleave(copies, 1), value.repeat_interleave(copies, 1)
        shares = [heads.unflatten(1, (self.size, -1)).transpose(0, 1) for heads in (query, key, value)]
        # One message for all three tensors.
        joined = all_to_all(torch.cat(shares, dim=2), self.group).flatten(0, 1)
        query, key, value = joined.split([share.shape[2] for share in shares], dim=1)
        return query, key, value

    def to_rows(self, context: Tensor) -> Tensor:
        """Exchange all positions of this rank's heads for this rank's positions of all heads; inverse of `to_heads`.

        Args:
            context: [T, heads / c, d] attention outputs, any floating dtype.

        Returns:
            [T / c, heads, d] activations in the same dtype.
        """
        return all_to_all(context.unflatten(0, (self.size, -1)), self.group).transpose(0, 1).flatten(1, 2)

    def join(self, columns: Tensor, part: RowPart, count: int) -> Tensor:
        """Collect every rank's values of its labels on all ranks, differentiably; see `sum`.

        Args:
            columns: [r, c] float32 values of this rank's r labels.
            part: This rank's part of the row.
            count: Number R of labels of the full row.

        Returns:
            [R, c] float32 values of all labels.
        """
        return self.sum(part.scatter(columns, count))

    def sum(self, mine: Tensor) -> Tensor:
        """Sum the ranks' tensors; the gradient flows to this rank's own summand only.

        Every rank computes the same loss from the sum, so summing the gradients as well would count each one c times.

        Args:
            mine: Values of any shape and floating dtype, equal in both on all ranks.

        Returns:
            The sum on every rank, with the shape and dtype of `mine`.
        """
        total = mine.detach().clone()
        dist.all_reduce(total, dist.ReduceOp.SUM, self.group)
        return mine + (total - mine.detach())
