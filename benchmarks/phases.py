"""CPU seconds by phase; uses the standard library only, as TRL's environment imports it too."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """CPU seconds by phase name."""

    def __init__(self, clock: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[name] += self._clock() - start
