"""Truncation rules for rows longer than `seq_length`, on lengths only; tokens are cut elsewhere.

Lengths are [N, 3] (prompt, chosen, rejected). Every rule keeps one prompt for both responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PairTruncation = Literal["cut_prompt", "keep_start", "drop"]
PromptTruncation = Literal["drop", "keep_last"]


@dataclass(frozen=True)
class TruncationResult:
    """The result of a rule for N rows.

    Attributes:
        keep: [N] bool, rows that are kept.
        skip: [N] int64, number of tokens cut from the start of the prompt.
        lengths: [N, 3] int64, remaining tokens of prompt, chosen and rejected.
        reason: Reason for which the other rows are dropped.
    """

    keep: NDArray[np.bool_]
    skip: NDArray[np.int64]
    lengths: NDArray[np.int64]
    reason: str = "too_long"


def cut_prompt(lengths: NDArray[np.int64], seq_length: int) -> TruncationResult:
    """TruncationResult the prompt from the start until the longer response fits; responses are not cut.

    A pair whose longer response leaves no room for a prompt token is dropped. Lengths are [N, 3] int64 tokens.
    """
    longer = lengths[:, 1:].max(axis=1)
    skip = np.clip(lengths[:, 0] + longer - seq_length, 0, None)
    left = lengths - skip[:, None] * np.array([1, 0, 0])
    return TruncationResult(left[:, 0] >= 1, skip, left)


def keep_start(lengths: NDArray[np.int64], seq_length: int) -> TruncationResult:
    """Keep the first `seq_length` tokens of each row, as TRL does; lengths are [N, 3] int64 tokens.

    A pair whose prompt alone fills the row is dropped.
    """
    room = seq_length - lengths[:, 0]
    left = np.stack([lengths[:, 0], *np.minimum(lengths[:, 1:], np.clip(room, 0, None)[:, None]).T], axis=1)
    return TruncationResult(room >= 1, np.zeros_like(room), left)


def drop(lengths: NDArray[np.int64], seq_length: int) -> TruncationResult:
    """Drop every pair with a row longer than `seq_length`, without cutting; lengths are [N, 3] int64 tokens."""
    return TruncationResult(
        lengths[:, 0] + lengths[:, 1:].max(axis=1) <= seq_length, np.zeros(len(lengths), np.int64), lengths
    )


PAIR_RULES: dict[str, Callable[[NDArray[np.int64], int], TruncationResult]] = {
    "cut_prompt": cut_prompt,
    "keep_start": keep_start,
    "drop": drop,
}
