"""Which pairs are computed where and together, planned from their lengths alone.

The unit is a prompt with all its responses, which is never split. Units are dealt to the replicas so that each has
about the same work, the largest first to whoever has least (at most 4/3 of the best split: Graham 1969), and each
replica's are put into micro-batches. The plan is a pure function of the lengths: every process makes the same one, and
so does a run that is continued.
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
class Limit:
    """What a micro-batch holds at most: so many units, or so many rows. Exactly one of the two is given.

    Attributes:
        units: Units.
        rows: Rows of tokens; a unit that is longer makes a micro-batch of its own.
        at_least: Micro-batches to make where the limit would allow fewer and there are units enough: a pipeline's
            stages have work only while there are as many micro-batches as stages.
    """

    units: int | None = None
    rows: int | None = None
    at_least: int = 1


def plan(
    rows: NDArray[np.int64], work: NDArray[np.int64], limit: Limit, *, replicas: int = 1, replica: int = 0
) -> list[Positions]:
    """The micro-batches of a replica: positions of their units, ascending.

    A replica has none where there are fewer units than replicas.

    Args:
        rows: [N] rows of each unit.
        work: [N] in any unit, what is balanced over the replicas.
        limit: Of a micro-batch. Where it counts units, replicas get equal numbers of them, as near as can be.
        replicas: Number of replicas.
        replica: The one asked about.
    """
    room = -(-len(rows) // replicas) if limit.units else None
    mine = deal(work, replicas, room)[replica]
    if limit.units:
        order = np.arange(len(mine))
        parts = [order[start : start + limit.units] for start in range(0, len(mine), limit.units)]
    else:
        assert limit.rows is not None, "a micro-batch is limited by units or by rows"
        parts = fit(rows[mine], limit.rows)
    return [mine[part] for part in _at_least(limit.at_least, parts, rows[mine])]


def deal(work: NDArray[np.int64], parts: int, room: int | None = None) -> list[Positions]:
    """Divide units into parts of about equal work, the largest first to the part that has least.

    Args:
        work: [N] of each unit.
        parts: How many.
        room: Units that a part can hold; None is any number. Together there must be room for all.

    Returns:
        Positions of each part, ascending.
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


def fit(rows: NDArray[np.int64], budget: int) -> list[Positions]:
    """Put units into as few packs of at most `budget` rows as decreasing best fit finds (at most 11/9 of the fewest).

    A unit beyond the budget is alone.
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
        packs += [largest[half] for half in deal(rows[largest], 2)]
    return packs


def _largest_first(sizes: NDArray[np.int64]) -> list[int]:
    """Positions by falling size, equal ones in their order."""
    order: list[int] = np.argsort(-sizes, kind="stable").tolist()
    return order


def _positions(units: Sequence[int]) -> Positions:
    return np.sort(np.asarray(units, dtype=np.int64))
