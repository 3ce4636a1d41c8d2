"""A tensor rank's share of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class VocabShard:
    """This tensor rank's share of the vocabulary.

    Attributes:
        start: First token id of the share.
        size: Rows of the weight here, padding included.
        vocab_size: True V; ids from V on are padding and take no probability.
        group: Tensor-parallel group, or None when there is one rank.
    """

    start: int
    size: int
    vocab_size: int
    group: Any = None

    @property
    def real(self) -> int:
        """Columns of this share that are real tokens."""
        return self._real_from(self.start)

    @property
    def fewest_real(self) -> int:
        """Real columns of the share that has the fewest, which is the last one."""
        return self._real_from(self.size * (1 if self.group is None else dist.get_world_size(self.group)) - self.size)

    def _real_from(self, start: int) -> int:
        return max(0, min(self.size, self.vocab_size - start))

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Reduce in place over the tensor ranks."""
        if self.group is not None:
            dist.all_reduce(tensor, op, self.group)
        return tensor

    def local(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Column of each label here (0 when it is elsewhere) and whether it is here."""
        column = labels - self.start
        here = (column >= 0) & (column < self.size)
        return column.where(here, 0), here
