"""Assignment of pairs to replicas and micro-batches, computed from their lengths alone.

The unit is a prompt with all its responses, which is never split. Units are assigned to replicas for about equal work,
the largest first to the replica with the least (at most 4/3 of the optimum: Graham 1969), then to micro-batches. The
plan is a pure function of the lengths: every process computes the same one, and so does a resumed run.
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
    rows: NDArray[np.int64], work: NDArray[np.int64], limit: MicroBatchLimit, *, replicas: int = 1, replica: int = 0
) -> list[Positions]:
    """Plan the micro-batches of a replica: ascending positions of their units, int64.

    A replica has none if there are fewer units than replicas.

    Args:
        rows: [N] int64 rows of each unit.
        work: [N] int64 work of each unit in arbitrary units, which is balanced over the replicas.
        limit: Maximum size of a micro-batch. If it counts units, replicas get numbers of units as equal as possible.
        replicas: Number of replicas.
        replica: Index of the replica.
    """
    room = -(-len(rows) // replicas) if limit.units else None
    mine = balance(work, replicas, room)[replica]
    if limit.units:
        order = np.arange(len(mine))
        parts = [order[start : start + limit.units] for start in range(0, len(mine), limit.units)]
    else:
        assert limit.rows is not None, "a micro-batch is limited by units or by rows"
        parts = bin_pack(rows[mine], limit.rows)
    return [mine[part] for part in _at_least(limit.min_micro_batches, parts, rows[mine])]


def balance(work: NDArray[np.int64], parts: int, room: int | None = None) -> list[Positions]:
    """Divide units into parts of about equal work, the largest first to the part with the least.

    Args:
        work: [N] int64 work of each unit.
        parts: Number of parts.
        room: Maximum number of units per part; None for no limit. All units must bin_pack.

    Returns:
        Ascending positions of each part, int64.
    """
    # Python's integers: sums of int64 could overflow.
    sizes = work.tolist()
    lightest = [(0, part) for part in range(parts)]
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for unit in _largest_first(work):
        load, part = heapq.heappop(lightest)
        dealt[part].append(unit)
        if room is None or len(dealt[part]) < room:
            heapq.heappush(lightest, (load + sizes[unit], part))
    return [_positions(units) for units in dealt]


def bin_pack(rows: NDArray[np.int64], budget: int) -> list[Positions]:
    """Pack units into micro-batches of at most `budget` rows by best-bin_pack decreasing (at most 11/9 of the optimum).

    Args:
        rows: [N] int64 rows of each unit; a unit beyond the budget is packed alone.
        budget: Maximum number of rows.
    """
    sizes = rows.tolist()
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # room left and pack, ascending
    for unit in _largest_first(rows):
        tightest = bisect_left(free, (sizes[unit], 0))
        if tightest == len(free):
            left, pack = budget, len(packs)
            packs.append([])
        else:
            left, pack = free.pop(tightest)
        packs[pack].append(unit)
        if left > sizes[unit]:
            insort(free, (left - sizes[unit], pack))
    return [_positions(units) for units in packs]


def _at_least(count: int, packs: list[Positions], rows: NDArray[np.int64]) -> list[Positions]:
    """Split the largest packs until there are `count`, as far as they hold several units."""
    while len(packs) < count:
        several = [pack for pack in range(len(packs)) if len(packs[pack]) > 1]
        if not several:
            break
        largest = packs.pop(max(several, key=lambda pack: int(rows[packs[pack]].sum())))
        packs += [largest[half] for half in balance(rows[largest], 2)]
    return packs


def _largest_first(sizes: NDArray[np.int64]) -> list[int]:
    """Positions by falling size, equal ones in their order."""
    order: list[int] = np.argsort(-sizes, kind="stable").tolist()
    return order


def _positions(units: Sequence[int]) -> Positions:
    return np.sort(np.asarray(units, dtype=np.int64))
