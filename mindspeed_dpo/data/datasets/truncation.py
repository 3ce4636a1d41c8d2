"""What happens to rows that are longer than a run allows. Integers only; no token is touched here.

Lengths are [N, 3] (prompt, chosen, rejected). Every rule keeps both responses behind one and the same prompt.
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
class Cut:
    """The outcome for N rows.

    Attributes:
        keep: [N] bool, rows that stay.
        skip: [N] int64, tokens cut from the left of the prompt.
        lengths: [N, 3] int64, what is left of prompt, chosen and rejected.
        reason: Why the others go.
    """

    keep: NDArray[np.bool_]
    skip: NDArray[np.int64]
    lengths: NDArray[np.int64]
    reason: str = "too_long"


def cut_prompt(lengths: NDArray[np.int64], seq_length: int) -> Cut:
    """Cut the prompt from the left until the longer response fits; responses stay whole.

    A pair whose longer response leaves no room for a single prompt token is dropped.
    """
    longer = lengths[:, 1:].max(axis=1)
    skip = np.clip(lengths[:, 0] + longer - seq_length, 0, None)
    left = lengths - skip[:, None] * np.array([1, 0, 0])
    return Cut(left[:, 0] >= 1, skip, left)


def keep_start(lengths: NDArray[np.int64], seq_length: int) -> Cut:
    """Keep the first tokens of each row, as TRL does; a prompt that fills the row by itself drops the pair."""
    room = seq_length - lengths[:, 0]
    left = np.stack([lengths[:, 0], *np.minimum(lengths[:, 1:], np.clip(room, 0, None)[:, None]).T], axis=1)
    return Cut(room >= 1, np.zeros_like(room), left)


def drop(lengths: NDArray[np.int64], seq_length: int) -> Cut:
    """Drop every pair with a row longer than `seq_length`; cut nothing."""
    return Cut(lengths[:, 0] + lengths[:, 1:].max(axis=1) <= seq_length, np.zeros(len(lengths), np.int64), lengths)


PAIR_RULES: dict[str, Callable[[NDArray[np.int64], int], Cut]] = {
    "cut_prompt": cut_prompt,
    "keep_start": keep_start,
    "drop": drop,
}
