"""The micro-batches of a replica, planned from the lengths of pairs alone, with or without `micro_batch_tokens`.

The unit is a prompt with all its responses, which is never split. `data_parallel_split` assigns units to replicas; here
those of a replica are assigned to micro-batches. The plan is a pure function of the lengths: every process computes the
same one, as does a resumed run.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.batching.data_parallel_split import Positions, as_positions, balance, largest_first


@dataclass(frozen=True)
class MicroBatchLimit:
    """Maximum size of a micro-batch, in units or in rows; exactly one of the two is set.

    `MicroBatchLimit(units=2)` allows two pairs, `MicroBatchLimit(rows=8192, min_micro_batches=4)` 8192 tokens.

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


def bin_pack(rows: NDArray[np.int64], budget: int) -> list[Positions]:
    """Pack units into micro-batches of at most `budget` rows by best-fit decreasing (at most 11/9 of the optimum).

    Args:
        rows: [N] int64 rows of each unit; a unit beyond the budget is packed alone.
        budget: Maximum number of rows.
    """
    sizes = rows.tolist()
    packs: list[list[int]] = []
    free: list[tuple[int, int]] = []  # remaining rows and pack, ascending
    for unit in largest_first(rows):
        tightest = bisect_left(free, (sizes[unit], 0))
        if tightest == len(free):
            remaining, pack = budget, len(packs)
            packs.append([])
        else:
            remaining, pack = free.pop(tightest)
        packs[pack].append(unit)
        if remaining > sizes[unit]:
            insort(free, (remaining - sizes[unit], pack))
    return [as_positions(units) for units in packs]


def _split_to_count(count: int, packs: list[Positions], rows: NDArray[np.int64]) -> list[Positions]:
    """Split the largest packs until there are `count`, or every pack has a single unit."""
    while len(packs) < count:
        several = [pack for pack in range(len(packs)) if len(packs[pack]) > 1]
        if not several:
            break
        largest = packs.pop(max(several, key=lambda pack: int(rows[packs[pack]].sum())))
        packs += [largest[half] for half in balance(rows[largest], 2)]
    return packs
