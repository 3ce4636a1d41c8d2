"""Truncation rules for pairs longer than `seq_length`, computed from lengths only.

Lengths are [N, 1 + K]: prompt and responses, for a pair chosen and rejected, 0 for no response. After every rule, all
responses still have the same prompt.
`preference_dataset` truncates the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TruncationResult:
    """The result of a rule for N rows.

    Example:
        cut_prompt(np.array([[5, 3, 2]]), seq_length=6) returns
        TruncationResult(fits=[True], skip=[2], lengths=[[3, 3, 2]])

    Attributes:
        fits: [N] bool, rows that can be used after truncation.
        skip: [N] int64, number of tokens removed from the start of the prompt.
        lengths: [N, 1 + K] int64, remaining tokens of prompt and responses.
        reason: Reason for which the other rows are dropped.
    """

    fits: NDArray[np.bool_]
    skip: NDArray[np.int64]
    lengths: NDArray[np.int64]
    reason: str = "too_long"


def cut_prompt(lengths: NDArray[np.int64], seq_length: int) -> TruncationResult:
    """Truncate the prompt from the start until the longer response fits; responses are unchanged.

    A pair whose longer response leaves no space for a prompt token is dropped. Lengths are [N, 1 + K] int64 tokens.
    """
    longer = lengths[:, 1:].max(axis=1)
    skip = np.clip(lengths[:, 0] + longer - seq_length, 0, None)
    remaining = np.column_stack([lengths[:, 0] - skip, lengths[:, 1:]])
    return TruncationResult(remaining[:, 0] >= 1, skip, remaining)


def keep_start(lengths: NDArray[np.int64], seq_length: int) -> TruncationResult:
    """Keep the first `seq_length` tokens of each row, as TRL does; lengths are [N, 1 + K] int64 tokens.

    A pair whose prompt alone fills the row is dropped.
    """
    space = seq_length - lengths[:, 0]
    remaining = np.stack([lengths[:, 0], *np.minimum(lengths[:, 1:], np.clip(space, 0, None)[:, None]).T], axis=1)
    return TruncationResult(space >= 1, np.zeros_like(space), remaining)


def drop(lengths: NDArray[np.int64], seq_length: int) -> TruncationResult:
    """Drop every pair with a row longer than `seq_length`, without truncation; lengths are [N, 1 + K] int64 tokens."""
    return TruncationResult(
        lengths[:, 0] + lengths[:, 1:].max(axis=1) <= seq_length, np.zeros(len(lengths), np.int64), lengths
    )


PAIR_RULES: dict[str, Callable[[NDArray[np.int64], int], TruncationResult]] = {
    "cut_prompt": cut_prompt,
    "keep_start": keep_start,
    "drop": drop,
}
