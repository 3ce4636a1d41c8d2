"""Seconds by phase of a side, ours or TRL's; needs nothing but Python."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """CPU seconds spent under each name."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add what the block takes to a phase."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[name] += self._clock() - start
