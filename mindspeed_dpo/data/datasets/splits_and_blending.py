"""Splits rows into training, validation and test, and mixes several datasets; operates on row numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def split_rows(num_rows: int, split: str) -> tuple[range, range, range]:
    """Split rows into consecutive parts for training, validation and test.

    Args:
        num_rows: Number of rows.
        split: Up to three proportions, as in `100,0,0` or `90,10`; they are normalised.

    Raises:
        ValueError: `split` is not up to three non-negative numbers with a positive sum.
    """
    try:
        shares = [float(share) for share in str(split).replace("/", ",").split(",")]
    except ValueError:
        shares = []
    if not 1 <= len(shares) <= 3 or min(shares) < 0 or not sum(shares) > 0:
        raise ValueError(f"split should be up to three shares such as 90,10,0 (train, valid, test), got {split!r}")
    shares += [0.0] * (3 - len(shares))
    ends = [round(num_rows * sum(shares[: part + 1]) / sum(shares)) for part in range(3)]
    return range(0, ends[0]), range(ends[0], ends[1]), range(ends[1], ends[2])


@dataclass(frozen=True)
class DataSource:
    """One entry of `data_path`: a prefix and its weight in an epoch, None if datasets are concatenated."""

    prefix: str
    weight: float | None = None


def parse_data_path(data_path: str) -> list[DataSource]:
    """Parse `a`, `a,b` or `weight,a,weight,b`.

    Raises:
        ValueError: Some prefixes have a weight and others none, or a weight is not positive.
    """
    words = [word.strip() for word in data_path.split(",") if word.strip()]
    if not words:
        raise ValueError("data_path is empty; it should be a prefix, a,b or weight,a,weight,b")
    weights = [_number(word) for word in words[0::2]]
    if len(words) % 2 == 0 and None not in weights:
        if min(weight for weight in weights if weight is not None) <= 0:
            raise ValueError(f"data_path {data_path!r}: weights must be positive")
        return [DataSource(prefix, weight) for weight, prefix in zip(weights, words[1::2], strict=True)]
    if any(_number(word) is not None for word in words):
        raise ValueError(f"data_path {data_path!r}: give every prefix a weight (weight,a,weight,b) or none (a,b)")
    return [DataSource(prefix) for prefix in words]


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def mix_rows(parts: Sequence[NDArray[np.int64]], weights: Sequence[float]) -> NDArray[np.int64]:
    """Mix several sets of rows to one epoch in given proportions, spread evenly.

    The epoch is just long enough to contain every row: sets with a larger weight than size repeat rows.

    Args:
        parts: Rows [n] int64 of each set.
        weights: Weight of each set, in any unit.

    Returns:
        [rows of the epoch] int64.
    """
    shares = [weight if len(part) else 0.0 for part, weight in zip(parts, weights, strict=True)]
    total = sum(shares)
    if not total:
        return np.empty(0, np.int64)
    length = max(len(part) * total / share for part, share in zip(parts, shares, strict=True) if share)
    counts = [round(length * share / total) for share in shares]
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    rows = np.concatenate([np.resize(part, count) for part, count in zip(parts, counts, strict=True)])
    return rows[np.argsort(places, kind="stable")].astype(np.int64)
