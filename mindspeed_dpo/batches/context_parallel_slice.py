"""The part of a packed row that one context-parallel rank computes.

The T positions are split into equal contiguous runs. Labels are aligned with the positions that predict them before the
split, so a split never separates the two. The exchange between ranks is in `parallel.context_parallel`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowPart:
    """Positions [start, stop) of a packed row and the labels they predict.

    Attributes:
        start: First position.
        stop: One past the last position.
        score_rows: [r] int64 positions, relative to `start`, that predict a response token; r >= 1.
        labels: [r] int64 token ids that they predict.
        label_indices: [r] int64 index of each label among the R labels of the full row. A part that predicts nothing
            has one dummy label with index R, since operators do not take empty tensors.

    Example:
        Rank 1 of 2 of a row of 6 tokens whose positions 1 and 4 predict the tokens 7 and 9:
        `RowPart(start=3, stop=6, score_rows=[1], labels=[9], label_indices=[1])`.
    """

    start: int
    stop: int
    score_rows: Tensor
    labels: Tensor
    label_indices: Tensor

    @classmethod
    def of(cls, num_rows: int, score_rows: Tensor, labels: Tensor, rank: int, size: int) -> RowPart:
        """Compute the part of one of `size` ranks.

        Args:
            num_rows: Length T of the packed row.
            score_rows: [R] int64 positions, as in `PackedBatch`, on the host.
            labels: [R] int64 token ids.
            rank: The rank that computes the part.
            size: Number of ranks.

        Raises:
            ValueError: T is not divisible by `size`.
        """
        if num_rows % size:
            raise ValueError(f"a row of {num_rows} tokens cannot be split into {size} equal parts; pad it when packing")
        length = num_rows // size
        start = rank * length
        label_indices = ((score_rows >= start) & (score_rows < start + length)).nonzero()[:, 0]
        if len(label_indices):
            return cls(start, start + length, score_rows[label_indices] - start, labels[label_indices], label_indices)
        nothing = torch.zeros(1, dtype=torch.int64)
        return cls(start, start + length, nothing, nothing, nothing + len(labels))

    def cut(self, values: Tensor) -> Tensor:
        """Return the part's slice [T / size, ...] of a per-position tensor [T, ...] of any dtype, as a view."""
        return values[self.start : self.stop]

    def scatter(self, columns: Tensor, count: int) -> Tensor:
        """Scatter values [r, c] of this part's labels into [count, c] of the same dtype, zero for all other labels."""
        return columns.new_zeros(count + 1, columns.shape[1]).index_copy(0, self.label_indices, columns)[:count]

    def local_rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Translate positions of the full row into positions of this part.

        Args:
            rows: [N] int64 positions of the full row.

        Returns:
            [N] int64 positions relative to `start`, 0 where they are outside, and [N] bool, whether they are inside.
        """
        within = rows - self.start
        here = (within >= 0) & (rows < self.stop)
        return within.where(here, 0), here

    def to(self, device: torch.device) -> RowPart:
        """Copy the part's tensors to a device, asynchronously."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("score_rows", "labels", "label_indices")
        }
        return replace(self, **moved)
