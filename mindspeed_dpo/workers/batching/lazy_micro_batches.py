"""The micro-batches of a step, packed as they are needed.

On a device that works on its own, the host packs one while the device computes those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import overload

from mindspeed_dpo.batches import PackedBatch


class MicroBatches(Sequence[PackedBatch]):
    """Micro-batches of which each is packed when it is first asked for, and then kept."""

    def __init__(self, makers: Sequence[Callable[[], PackedBatch]]) -> None:
        """Remember how each is made."""
        self._makers = [cache(make) for make in makers]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._makers)

    def __iter__(self) -> Iterator[PackedBatch]:
        """One after the other; an IndexError in making one is told, which a sequence would take for its end."""
        return (make() for make in self._makers)

    @overload
    def __getitem__(self, place: int) -> PackedBatch: ...

    @overload
    def __getitem__(self, place: slice) -> list[PackedBatch]: ...

    def __getitem__(self, place: int | slice) -> PackedBatch | list[PackedBatch]:
        """That of a place, or those of several."""
        if isinstance(place, slice):
            return [make() for make in self._makers[place]]
        return self._makers[place]()
