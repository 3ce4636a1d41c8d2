"""Durations of the phases of a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StepTimer:
    """Measures named phases: `with timer("timing/ref"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start_s = time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the duration of the block to a phase."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start_s

    @property
    def total_s(self) -> float:
        """Seconds of all phases; nested phases count twice."""
        return sum(self.seconds.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the timer was created."""
        return time.perf_counter() - self._start_s
