"""A tensor-parallel rank's shard of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class VocabShard:
    """The vocabulary rows of one tensor-parallel rank.

    The last of three ranks, for 21 ids padded to 24 rows: `VocabShard(start=16, size=8, vocab_size=21, group=...)`.

    Attributes:
        start: First token id of the shard.
        size: Rows of the shard, including padding.
        vocab_size: Vocabulary size V without padding; ids from V on are padding and have no probability.
        group: Tensor-parallel group, or None for a single rank.
    """

    start: int
    size: int
    vocab_size: int
    group: Any = None

    @property
    def num_real(self) -> int:
        """Number of ids in this shard that are not padding."""
        return self._num_real_from(self.start)

    @property
    def min_num_real(self) -> int:
        """Number of ids that are not padding in the shard that has the fewest, which is the last one."""
        return self._num_real_from(
            self.size * (1 if self.group is None else dist.get_world_size(self.group)) - self.size
        )

    def _num_real_from(self, start: int) -> int:
        return max(0, min(self.size, self.vocab_size - start))

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Reduce values of any shape and dtype in place over the tensor-parallel ranks."""
        if self.group is not None:
            dist.all_reduce(tensor, op, self.group)
        return tensor

    def local_columns(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Locate labels in this shard.

        Args:
            labels: [R] int64 token ids.

        Returns:
            [R] int64 column of each label in the shard, 0 where it is in another shard, and [R] bool, whether it is in
            this one.
        """
        column = labels - self.start
        is_local = (column >= 0) & (column < self.size)
        return column.where(is_local, 0), is_local
