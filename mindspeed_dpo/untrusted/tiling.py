"""Boxes that divide a tensor: the check that they cover it exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mindspeed_dpo.untrusted.errors import MalformedDataError

Box = tuple[tuple[int, int], ...]
"""Start and stop along each dim of a tensor."""
_MAX_CELLS = 1 << 24


def check_tiling(shape: tuple[int, ...], boxes: Sequence[Box], location: str) -> None:
    """Check that boxes cover a tensor of `shape` without gaps, overlaps or parts outside of it.

    Checkpoints divide a tensor along a grid, so the boxes are counted per cell of the grid of all their edges.

    Raises:
        MalformedDataError: They do not; the message begins with `location`.
    """
    for box in boxes:
        if len(box) != len(shape) or any(stop > size for (_, stop), size in zip(box, shape, strict=True)):
            raise MalformedDataError(f"{location}: a chunk is not within the shape {list(shape)}")
    if 0 in shape:
        return
    filled = [box for box in boxes if all(start < stop for start, stop in box)]
    if sum(prod(stop - start for start, stop in box) for box in filled) != prod(shape):
        raise MalformedDataError(f"{location} is incomplete or stored twice: its chunks do not add up to {list(shape)}")
    if not shape:
        return
    edges = [sorted({edge for box in filled for edge in box[dim]}) for dim in range(len(shape))]
    if prod(map(len, edges)) > _MAX_CELLS:
        raise MalformedDataError(f"{location}: its chunks do not lie on a grid")
    cells = np.zeros([max(1, len(edge) - 1) for edge in edges], dtype=bool)
    cell_of = [{edge: cell for cell, edge in enumerate(along)} for along in edges]
    for box in filled:
        block = cells[tuple(slice(cell_of[dim][start], cell_of[dim][stop]) for dim, (start, stop) in enumerate(box))]
        if block.any():
            raise MalformedDataError(f"{location}: two of its chunks overlap")
        block[...] = True
