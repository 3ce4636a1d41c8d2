"""Who sits where: the slots of the cache, which responses hold them, and which moves empty a tile. Integers only."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

Holder = TypeVar("Holder")


class Slots(Generic[Holder]):
    """Slots 0 to count - 1 in tiles of `rows`; the lowest free one is taken first, so that tiles are full or empty.

    Attributes:
        held: Who holds which slot.
    """

    def __init__(self, count: int, rows: int) -> None:
        self.held: dict[int, Holder] = {}
        self._free = list(range(count))
        self._rows = rows
        self._count = count

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def take(self, holder: Holder) -> int:
        """Give a free slot away and return it."""
        slot = heapq.heappop(self._free)
        self.held[slot] = holder
        return slot

    def leave(self, slot: int) -> None:
        """A holder is done."""
        del self.held[slot]
        heapq.heappush(self._free, slot)

    def tiles(self) -> list[int]:
        """Tiles with at least one holder, in order."""
        return sorted({slot // self._rows for slot in self.held})

    def in_tile(self, tile: int) -> list[tuple[int, Holder]]:
        """(row, holder) of a tile, in order of rows."""
        start = tile * self._rows
        rows = range(start, start + self._rows)
        return [(slot - start, self.held[slot]) for slot in rows if slot in self.held]

    def gather(self) -> Iterator[tuple[int, int, Holder]]:
        """Move holders together where that leaves fewer tiles to decode; yields (from, to, holder) for each move."""
        needed = -(-len(self.held) // self._rows)
        tiles = self.tiles()
        if len(tiles) <= needed:
            return
        staying = set(sorted(tiles, key=self._readiness_to_stay)[:needed])
        seats = sorted(slot for slot in self._free if slot // self._rows in staying)
        leaving = sorted(slot for slot in self.held if slot // self._rows not in staying)
        for source, target in zip(leaving, seats, strict=False):
            holder = self.held.pop(source)
            self._free.remove(target)
            heapq.heapify(self._free)
            heapq.heappush(self._free, source)
            self.held[target] = holder
            yield source, target, holder

    def _readiness_to_stay(self, tile: int) -> tuple[bool, int, int]:
        """The fullest tile first; one with fewer slots than others last, because it may not seat who leaves."""
        is_short = (tile + 1) * self._rows > self._count
        return is_short, -len(self.in_tile(tile)), tile
