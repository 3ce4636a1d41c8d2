"""The part of a packed row that one context-parallel rank computes: the only place that knows how a row is cut.

The T rows are cut into equal runs, one after the other. Labels were laid beside the rows that predict them before, so
that no cut can part them. What lies between the ranks' parts is exchanged in `parallel.context`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowPart:
    """Rows [start, stop) of a packed row, and what they predict.

    Attributes:
        start: First row.
        stop: The row behind the last.
        score_rows: [r] int64 rows, counted within the part, that predict a response token; at least one.
        labels: [r] int64 the tokens they predict.
        places: [r] int64 place of each among the R labels of the whole row; R for one that only stands in where the
            part predicts nothing, as no operator should meet an empty tensor.
    """

    start: int
    stop: int
    score_rows: Tensor
    labels: Tensor
    places: Tensor

    @classmethod
    def of(cls, num_rows: int, score_rows: Tensor, labels: Tensor, rank: int, size: int) -> RowPart:
        """The part of one of `size` ranks.

        Args:
            num_rows: T.
            score_rows: [R] int64, as in `PackedBatch`, on the host.
            labels: [R] int64.
            rank: Whose part it is.
            size: Number of parts.

        Raises:
            ValueError: The parts would not be equal.
        """
        if num_rows % size:
            raise ValueError(f"a row of {num_rows} tokens cannot be cut into {size} equal parts; pad it when packing")
        length = num_rows // size
        start = rank * length
        places = ((score_rows >= start) & (score_rows < start + length)).nonzero()[:, 0]
        if len(places):
            return cls(start, start + length, score_rows[places] - start, labels[places], places)
        nothing = torch.zeros(1, dtype=torch.int64)
        return cls(start, start + length, nothing, nothing, nothing + len(labels))

    def cut(self, values: Tensor) -> Tensor:
        """The part's share [T / size, ...] of something that each row has, a view."""
        return values[self.start : self.stop]

    def spread(self, columns: Tensor, count: int) -> Tensor:
        """What the part says of its labels, [r, c], among those of the whole row [count, c], zero elsewhere."""
        return columns.new_zeros(count + 1, columns.shape[1]).index_copy(0, self.places, columns)[:count]

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the whole row, counted within the part (0 when they are elsewhere), and whether they are here."""
        within = rows - self.start
        here = (within >= 0) & (rows < self.stop)
        return within.where(here, 0), here

    def to(self, device: torch.device) -> RowPart:
        """The same part with its tensors on a device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("score_rows", "labels", "places")}
        return replace(self, **moved)
