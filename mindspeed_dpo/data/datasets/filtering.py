"""Which rows of token sets are fit for training, decided by their lengths alone: no token is read, no tensor made.

What cannot be trained on is left out, the cuts of long rows are settled, and both are counted. Tokens are read by
`dataset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.names import did_you_mean
from mindspeed_dpo.data.datasets.splits import DataSource, mix_rows, split_rows
from mindspeed_dpo.data.datasets.truncation import PAIR_RULES


@dataclass(frozen=True)
class DataCounts:
    """What became of the rows of a data path.

    Attributes:
        read: Rows in the files.
        kept: Rows that are trained on.
        dropped: Rows left out, by reason.
        prompts_cut: Kept rows whose prompt lost tokens.
        responses_cut: Responses of kept rows that lost tokens.
    """

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    prompts_cut: int = 0
    responses_cut: int = 0

    def sentence(self) -> str:
        """All of it in a line for the log."""
        parts = [f"{self.kept} of {self.read} rows kept"]
        parts += [f"{count} dropped ({reason})" for reason, count in self.dropped.items() if count]
        parts += [f"{self.prompts_cut} prompts cut"] * bool(self.prompts_cut)
        parts += [f"{self.responses_cut} responses cut"] * bool(self.responses_cut)
        return ", ".join(parts)


@dataclass(frozen=True)
class Splits:
    """Dataset rows for each purpose, [rows] int64; training rows repeat where weights ask for it."""

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]


class FilteredRows:
    """Which rows of which sets are kept: what both kinds of dataset share."""

    def __init__(self, sources: Sequence[DataSource], kept: Sequence[NDArray[np.int64]], counts: DataCounts) -> None:
        self.counts = counts
        self._weights = [source.weight for source in sources]
        self._ends = np.cumsum([len(rows) for rows in kept])
        self._kept = kept
        if not counts.kept:
            names = ",".join(source.prefix for source in sources)
            raise ValueError(f"data_path {names}: no row is fit for training: {counts.sentence()}")

    def __len__(self) -> int:
        """Rows kept."""
        return self.counts.kept

    def _locate(self, row: int) -> tuple[int, int]:
        """The set that a dataset row lies in, and its row there."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside 0 to {len(self) - 1}")
        part = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return part, int(self._kept[part][row - start])

    def splits(self, split: str) -> Splits:
        """Divide every set by `split`, then join the parts; the weights of `data_path` shape the training rows."""
        starts = [0, *self._ends[:-1].tolist()]
        divided = [split_rows(len(rows), split) for rows in self._kept]
        train, valid, test = (
            [np.asarray(part[purpose], np.int64) + start for part, start in zip(divided, starts, strict=True)]
            for purpose in range(3)
        )
        weights = [weight for weight in self._weights if weight is not None]
        mixed = mix_rows(train, weights) if weights else np.concatenate(train)
        return Splits(mixed, np.concatenate(valid), np.concatenate(test))


class FilteredPairs(FilteredRows):
    """Rows of preference pairs."""

    def __init__(
        self,
        lengths: Sequence[NDArray[np.int64]],
        sources: Sequence[DataSource],
        seq_length: int | None = None,
        truncation: str = "cut_prompt",
    ) -> None:
        """Settle which rows are kept.

        Args:
            lengths: [rows, 3] of each set: tokens of prompt, chosen and rejected response.
            sources: The set of each.
            seq_length: Tokens that prompt and one response may have together; None leaves all rows whole.
            truncation: A name of `truncation.PAIR_RULES`.
        """
        if truncation not in PAIR_RULES:
            raise ValueError(
                f"truncation {truncation!r} is not one of {', '.join(PAIR_RULES)}{did_you_mean(truncation, PAIR_RULES)}"
            )
        check_limit("seq_length", seq_length, least=2)
        full = np.concatenate(lengths)
        usable: dict[str, NDArray[np.bool_]] = {
            "empty_response": np.asarray((full[:, 1:] > 0).all(axis=1)),
            "empty_prompt": full[:, 0] > 0,
        }
        cut = PAIR_RULES[truncation](full, int(full.sum(axis=1).max(initial=0)) if seq_length is None else seq_length)
        keep, dropped = _left_after({**usable, cut.reason: cut.keep})
        self._lengths = cut.lengths[keep].astype(np.int32)
        self._skip = cut.skip[keep]
        counts = DataCounts(
            read=len(full),
            kept=int(keep.sum()),
            dropped=dropped,
            prompts_cut=int((self._skip > 0).sum()),
            responses_cut=int((self._lengths[:, 1:] < full[keep][:, 1:]).sum()),
        )
        super().__init__(sources, _rows_by_set(keep, [len(rows) for rows in lengths]), counts)

    def lengths(self) -> NDArray[np.int32]:
        """[rows, 3] int32: tokens of prompt, chosen and rejected after truncation."""
        return self._lengths


class FilteredPrompts(FilteredRows):
    """Rows of prompts."""

    def __init__(
        self,
        lengths: Sequence[NDArray[Any]],
        sources: Sequence[DataSource],
        max_prompt_length: int | None = None,
        truncation: str = "drop",
    ) -> None:
        """Settle which rows are kept.

        Args:
            lengths: [rows] of each set: tokens of a prompt.
            sources: The set of each.
            max_prompt_length: Tokens a prompt may have; None leaves all whole.
            truncation: `drop` longer prompts, or `keep_last` of their tokens.
        """
        if truncation not in ("drop", "keep_last"):
            raise ValueError(f"truncation of prompts should be drop or keep_last, got {truncation!r}")
        check_limit("max_prompt_length", max_prompt_length, least=1)
        full = np.concatenate(lengths)
        limit = int(full.max(initial=0)) if max_prompt_length is None else max_prompt_length
        fits = np.ones(len(full), bool) if truncation == "keep_last" else full <= limit
        keep, dropped = _left_after({"empty_prompt": full > 0, "too_long": fits})
        self._lengths = np.minimum(full[keep], limit).astype(np.int32)
        counts = DataCounts(len(full), int(keep.sum()), dropped, prompts_cut=int((full[keep] > limit).sum()))
        super().__init__(sources, _rows_by_set(keep, [len(rows) for rows in lengths]), counts)

    def lengths(self) -> NDArray[np.int32]:
        """[rows] int32: tokens of each prompt after truncation."""
        return self._lengths


def check_limit(name: str, value: int | None, least: int) -> None:
    """Check a limit; None means no limit.

    Raises:
        ValueError: The limit is below `least`.
    """
    if value is not None and value < least:
        raise ValueError(f"{name} should be at least {least}, got {value}")


def _left_after(conditions: dict[str, NDArray[np.bool_]]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Rows that meet all conditions, and how many fail each one first."""
    keep = np.ones_like(next(iter(conditions.values())))
    dropped = {}
    for reason, met in conditions.items():
        dropped[reason] = int((keep & ~met).sum())
        keep = keep & met
    return keep, dropped


def _rows_by_set(keep: NDArray[np.bool_], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """The kept rows of each set, counted from the start of that set."""
    return [np.flatnonzero(part) for part in np.split(keep, np.cumsum(sizes)[:-1])]
