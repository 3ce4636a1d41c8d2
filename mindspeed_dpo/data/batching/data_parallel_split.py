"""Divides prompts and pairs among the data-parallel replicas: contiguous equal shares, or shares of equal workload.

For equal workload the largest units are assigned first, each to the replica with the least so far (at most 4/3 of the
optimum: Graham 1969). Both are pure functions of counts or lengths, so every process computes the same division.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


def shard(count: int, dp_rank: int, dp: int) -> range:
    """Return the contiguous positions of a data-parallel rank among `count` items; sizes differ by at most one."""
    base, rest = divmod(count, dp)
    start = dp_rank * base + min(dp_rank, rest)
    return range(start, start + base + (dp_rank < rest))


def balance(workload: NDArray[np.int64], parts: int, max_units: int | None = None) -> list[Positions]:
    """Divide units into parts of about equal workload, the largest first to the part with the least.

    Args:
        workload: [N] int64 workload of each unit.
        parts: Number of parts.
        max_units: Maximum number of units per part; None for no limit. `parts * max_units` must be at least N.

    Returns:
        Ascending positions of each part, int64.
    """
    # Python's integers: sums of int64 could overflow.
    sizes = workload.tolist()
    lightest = [(0, part) for part in range(parts)]
    assigned: list[list[int]] = [[] for _ in range(parts)]
    for unit in largest_first(workload):
        load, part = heapq.heappop(lightest)
        assigned[part].append(unit)
        if max_units is None or len(assigned[part]) < max_units:
            heapq.heappush(lightest, (load + sizes[unit], part))
    return [as_positions(units) for units in assigned]


def largest_first(sizes: NDArray[np.int64]) -> list[int]:
    """Return the positions of sizes [N] int64 in decreasing order; equal sizes keep their order."""
    order: list[int] = np.argsort(-sizes, kind="stable").tolist()
    return order


def as_positions(units: Sequence[int]) -> Positions:
    """Return unit numbers as ascending positions, [n] int64."""
    return np.sort(np.asarray(units, dtype=np.int64))
