"""Assignment of pairs to replicas and micro-batches, computed from their lengths alone.

The unit is a prompt with all its responses, which is never split. Units are assigned to replicas for about equal
workload, the largest first to the replica with the least (at most 4/3 of the optimum: Graham 1969), then to
micro-batches. The plan is a pure function of the lengths: every process computes the same one, as does a resumed run.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatchLimit:
    """Maximum size of a micro-batch, in units or in rows; exactly one of the two is set.

    Attributes:
        units: Maximum number of units.
        rows: Maximum number of rows (tokens); a longer unit forms a micro-batch of its own.
        min_micro_batches: Minimum number of micro-batches if there are enough units; a pipeline needs one per stage to
            keep all stages busy.
    """

    units: int | None = None
    rows: int | None = None
    min_micro_batches: int = 1


def plan(
    rows: NDArray[np.int64], workload: NDArray[np.int64], limit: MicroBatchLimit, *, replicas: int = 1, replica: int = 0
) -> list[Positions]:
    """Plan the micro-batches of a replica: ascending positions of their units, int64.

    A replica has none if there are fewer units than replicas.

    Args:
        rows: [N] int64 rows of each unit.
        workload: [N] int64 workload of each unit in arbitrary units, which is balanced over the replicas.
        limit: Maximum size of a micro-batch. If it counts units, replicas get numbers of units as equal as possible.
        replicas: Number of replicas.
        replica: Index of the replica.
    """
    return _micro_batches(_balanced(rows, workload, limit, replicas)[replica], rows, limit)


def max_num_micro_batches(
    rows: NDArray[np.int64], workload: NDArray[np.int64], limit: MicroBatchLimit, replicas: int
) -> int:
    """Compute the number of micro-batches of the replica that has most, as `plan` plans them.

    Args:
        rows: [N] int64 rows of each unit.
        workload: [N] int64 workload of each unit, in the arbitrary units of `plan`.
        limit: Maximum size of a micro-batch.
        replicas: Number of replicas.
    """
    return max(len(_micro_batches(mine, rows, limit)) for mine in _balanced(rows, workload, limit, replicas))


def _balanced(
    rows: NDArray[np.int64], workload: NDArray[np.int64], limit: MicroBatchLimit, replicas: int
) -> list[Positions]:
    """Assign units to the replicas."""
    return balance(workload, replicas, -(-len(rows) // replicas) if limit.units else None)


def _micro_batches(mine: Positions, rows: NDArray[np.int64], limit: MicroBatchLimit) -> list[Positions]:
    """Divide the units of one replica into micro-batches."""
    if limit.units:
        order = np.arange(len(mine))
        parts = [order[start : start + limit.units] for start in range(0, len(mine), limit.units)]
    else:
        assert limit.rows is not None, "a micro-batch is limited by units or by rows"
        parts = bin_pack(rows[mine], limit.rows)
    return [mine[part] for part in _split_to_count(limit.min_micro_batches, parts, rows[mine])]


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
    for unit in _largest_first(workload):
        load, part = heapq.heappop(lightest)
        assigned[part].append(unit)
        if max_units is None or len(assigned[part]) < max_units:
            heapq.heappush(lightest, (load + sizes[unit], part))
    return [_positions(units) for units in assigned]


def bin_pack(rows: NDArray[np.int64], budget: int) -> list[Positions]:
    """Pack units into micro-batches of at most `budget` rows by best-fit decreasing (at most 11/9 of the optimum).

    Args:
        rows: [N] int64 rows of each unit; a unit beyond the budget is packed alone.
        budget: Maximum number of rows.
    """
    sizes = rows.tolist()
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # remaining rows and pack, ascending
    for unit in _largest_first(rows):
        tightest = bisect_left(free, (sizes[unit], 0))
        if tightest == len(free):
            remaining, pack = budget, len(packs)
            packs.append([])
        else:
            remaining, pack = free.pop(tightest)
        packs[pack].append(unit)
        if remaining > sizes[unit]:
            insort(free, (remaining - sizes[unit], pack))
    return [_positions(units) for units in packs]


def _split_to_count(count: int, packs: list[Positions], rows: NDArray[np.int64]) -> list[Positions]:
    """Split the largest packs until there are `count`, or every pack has a single unit."""
    while len(packs) < count:
        several = [pack for pack in range(len(packs)) if len(packs[pack]) > 1]
        if not several:
            break
        largest = packs.pop(max(several, key=lambda pack: int(rows[packs[pack]].sum())))
        packs += [largest[half] for half in balance(rows[largest], 2)]
    return packs


def _largest_first(sizes: NDArray[np.int64]) -> list[int]:
    """Return positions by decreasing size; equal sizes keep their order."""
    order: list[int] = np.argsort(-sizes, kind="stable").tolist()
    return order


def _positions(units: Sequence[int]) -> Positions:
    return np.sort(np.asarray(units, dtype=np.int64))
