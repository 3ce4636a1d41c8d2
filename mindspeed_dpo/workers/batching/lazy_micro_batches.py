"""The micro-batches of a step, each packed when it is first used.

With an asynchronous device the host packs one while the device computes those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import overload

from mindspeed_dpo.batches import PackedBatch


class MicroBatches(Sequence[PackedBatch]):
    """A sequence of micro-batches that packs each on its first use and caches it."""

    def __init__(self, makers: Sequence[Callable[[], PackedBatch]]) -> None:
        """Wrap the functions that pack one micro-batch each."""
        self._makers = [cache(make) for make in makers]

    def __len__(self) -> int:
        """Return the number of micro-batches."""
        return len(self._makers)

    def __iter__(self) -> Iterator[PackedBatch]:
        """Iterate; the default iterator of a sequence would take an IndexError raised while packing for the end."""
        return (make() for make in self._makers)

    @overload
    def __getitem__(self, index: int) -> PackedBatch: ...

    @overload
    def __getitem__(self, index: slice) -> list[PackedBatch]: ...

    def __getitem__(self, index: int | slice) -> PackedBatch | list[PackedBatch]:
        """Return one micro-batch, or a list for a slice."""
        if isinstance(index, slice):
            return [make() for make in self._makers[index]]
        return self._makers[index]()
