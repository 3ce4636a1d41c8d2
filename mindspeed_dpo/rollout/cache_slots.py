"""Assignment of cache slots to responses, and the moves that compact them into fewer tiles. Integers only."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class Slots(Generic[Owner]):
    """Slots 0 to count - 1 in tiles of `rows`; the lowest free slot is taken first, which keeps tiles full or empty.

    Attributes:
        owners: Owner of each slot in use.
    """

    def __init__(self, count: int, rows: int) -> None:
        self.owners: dict[int, Owner] = {}
        self._free = list(range(count))
        self._rows = rows
        self._count = count

    @property
    def has_free(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def take(self, owner: Owner) -> int:
        """Assign a free slot to an owner and return it."""
        slot = heapq.heappop(self._free)
        self.owners[slot] = owner
        return slot

    def release(self, slot: int) -> None:
        """Free a slot."""
        del self.owners[slot]
        heapq.heappush(self._free, slot)

    def tiles(self) -> list[int]:
        """List the tiles with at least one slot in use, in order."""
        return sorted({slot // self._rows for slot in self.owners})

    def in_tile(self, tile: int) -> list[tuple[int, Owner]]:
        """List (row, owner) of the slots in use of a tile, in order of rows."""
        start = tile * self._rows
        rows = range(start, start + self._rows)
        return [(slot - start, self.owners[slot]) for slot in rows if slot in self.owners]

    def compact(self) -> Iterator[tuple[int, int, Owner]]:
        """Move owners if that leaves fewer tiles to decode; yields (source, target, owner) for each move."""
        needed = -(-len(self.owners) // self._rows)
        tiles = self.tiles()
        if len(tiles) <= needed:
            return
        remaining = set(sorted(tiles, key=self._eviction_order)[:needed])
        targets = sorted(slot for slot in self._free if slot // self._rows in remaining)
        sources = sorted(slot for slot in self.owners if slot // self._rows not in remaining)
        for source, target in zip(sources, targets, strict=False):
            owner = self.owners.pop(source)
            self._free.remove(target)
            heapq.heapify(self._free)
            heapq.heappush(self._free, source)
            self.owners[target] = owner
            yield source, target, owner

    def _eviction_order(self, tile: int) -> tuple[bool, int, int]:
        """Sort key: the fullest tile first; a shorter tile last, since it may have no space for the others."""
        is_short = (tile + 1) * self._rows > self._count
        return is_short, -len(self.in_tile(tile)), tile
