"""Histograms with bins of equal width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.untrusted.json_object import JsonObject

NUM_BINS = 24
SMALLEST_SHARE = 1e-4
"""Smallest width of a bin as a share of the largest value."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values, for example `Histogram(start=0.0, width=16.0, counts=[3, 5])`.

    Attributes:
        start: Lower edge of the first bin.
        width: Width of a bin.
        counts: Values in each bin; the upper edge belongs to the next one, but the last.
    """

    start: float
    width: float
    counts: Sequence[int]

    @property
    def bars(self) -> list[tuple[int, float, float]]:
        """Height, lower and upper edge of each bin."""
        edges = [self.start + number * self.width for number in range(len(self.counts) + 1)]
        return list(zip(self.counts, edges[:-1], edges[1:], strict=True))

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        low: float | None = None,
        high: float | None = None,
        weights: Sequence[int] | None = None,
        smallest_width: float = 0.0,
    ) -> Histogram:
        """Count finite values, of which there is at least one.

        Args:
            values: The values.
            low: Value from which the bins begin; by default the smallest.
            high: Value up to which they go; by default the largest.
            weights: How often each value is counted; by default once.
            smallest_width: Smallest width of a bin, such as 1 for integers.
        """
        low, high = (min(values) if low is None else low), (max(values) if high is None else high)
        # Values that differ by roundings only are one bin.
        width = _round_width(max((high - low) / NUM_BINS, smallest_width, SMALLEST_SHARE * max(abs(low), abs(high))))
        start = math.floor(low / width) * width
        counts = [0] * (int((high - start) / width) + 1)
        for value, weight in zip(values, weights or [1] * len(values), strict=True):
            counts[min(int((value - start) / width), len(counts) - 1)] += weight
        return cls(start, width, counts)

    @classmethod
    def read(cls, content: JsonObject) -> Histogram:
        """Read a histogram from JSON.

        Raises:
            MalformedDataError: It is none.
        """
        width, counts = content.number("width"), content.integers("counts")
        if width <= 0 or min(counts, default=0) < 0:
            raise MalformedDataError(f"{content.location} must have a positive width and counts")
        return cls(content.number("start"), width, counts)


def _round_width(width: float) -> float:
    """Return the next larger of 1, 2 and 5 times a power of ten; 1 where all values are equal."""
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width)
