"""Selects the rows for training by their lengths alone, without reading tokens or creating tensors.

Unusable rows are dropped, the truncation of long rows is computed, and both are counted. `preference_dataset` reads the
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.datasets.splits_and_blending import DataSource, mix_rows, split_rows
from mindspeed_dpo.data.datasets.truncation import PAIR_RULES


@dataclass(frozen=True)
class DataCounts:
    """Counts of the rows of a data path by outcome.

    Example:
        DataCounts(num_rows=4, num_used=3, dropped={"too_long": 1}, prompts_cut=1, responses_cut=0)

    Attributes:
        num_rows: Rows in the files.
        num_used: Rows that are used.
        dropped: Reason -> number of dropped rows.
        prompts_cut: Number of used rows with a truncated prompt.
        responses_cut: Number of truncated responses in used rows.
    """

    num_rows: int
    num_used: int
    dropped: dict[str, int] = field(default_factory=dict)
    prompts_cut: int = 0
    responses_cut: int = 0

    def summary(self) -> str:
        """Format the counts as one line for the log."""
        parts = [f"{self.num_used} of {self.num_rows} rows used"]
        parts += [f"{count} dropped ({reason})" for reason, count in self.dropped.items() if count]
        parts += [f"{self.prompts_cut} prompts truncated"] * bool(self.prompts_cut)
        parts += [f"{self.responses_cut} responses truncated"] * bool(self.responses_cut)
        return ", ".join(parts)


@dataclass(frozen=True)
class Splits:
    """Dataset rows of each split, [rows] int64; training rows may repeat according to the dataset weights.

    Example:
        Splits(train=array([0, 1, 2, 0, 1, 2]), valid=array([3]), test=array([4]))
    """

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]


class FilteredRows:
    """The selected rows of one or more datasets; the common base of pairs and prompts."""

    def __init__(
        self, sources: Sequence[DataSource], rows_by_set: Sequence[NDArray[np.int64]], counts: DataCounts
    ) -> None:
        """Reference the selected rows.

        Args:
            sources: Source of each set.
            rows_by_set: [selected] int64 rows of each set, ascending.
            counts: Numbers of selected and dropped rows of all sets.

        Raises:
            ValueError: No row is selected.
        """
        self.counts = counts
        self._weights = [source.weight for source in sources]
        self._ends = np.cumsum([len(rows) for rows in rows_by_set])
        self._rows_by_set = rows_by_set
        if not counts.num_used:
            names = ",".join(source.prefix for source in sources)
            raise ValueError(f"data_path {names}: no row is fit for training: {counts.summary()}")

    def __len__(self) -> int:
        """Number of selected rows."""
        return self.counts.num_used

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the index of the set that contains a dataset row, and the row within it."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside 0 to {len(self) - 1}")
        part = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[part - 1]) if part else 0
        return part, int(self._rows_by_set[part][row - start])

    def splits(self, split: str) -> Splits:
        """Split every set and concatenate the parts; training rows are mixed by the weights of `data_path`."""
        starts = [0, *self._ends[:-1].tolist()]
        divided = [split_rows(len(rows), split) for rows in self._rows_by_set]
        train, valid, test = (
            [np.asarray(part[purpose], np.int64) + start for part, start in zip(divided, starts, strict=True)]
            for purpose in range(3)
        )
        weights = [weight for weight in self._weights if weight is not None]
        mixed = mix_rows(train, weights) if weights else np.concatenate(train)
        return Splits(mixed, np.concatenate(valid), np.concatenate(test))


class FilteredPairs(FilteredRows):
    """The selected rows of preference pairs or of rankings."""

    def __init__(
        self,
        lengths: Sequence[NDArray[np.int64]],
        sources: Sequence[DataSource],
        seq_length: int | None = None,
        truncation: str = "cut_prompt",
    ) -> None:
        """Select the rows.

        Args:
            lengths: [rows, 1 + K] int64 of each set: tokens of the prompt and of its responses; of pairs chosen and
                rejected, of rankings from the best to the worst, 0 where a ranking has no more.
            sources: Source of each set.
            seq_length: Maximum number of tokens of a prompt with one response; None for no limit.
            truncation: A name of `truncation.PAIR_RULES`.

        Raises:
            ValueError: The truncation is unknown, the limit is too small, or no row is fit for training.
        """
        if truncation not in PAIR_RULES:
            raise ValueError(
                f"truncation {truncation!r} is not one of {', '.join(PAIR_RULES)}{did_you_mean(truncation, PAIR_RULES)}"
            )
        check_limit("seq_length", seq_length, least=2)
        full = concatenate_lengths(lengths)
        usable: dict[str, NDArray[np.bool_]] = {
            "empty_response": np.asarray((full[:, 1:3] > 0).all(axis=1)),
            "empty_prompt": full[:, 0] > 0,
        }
        truncated = PAIR_RULES[truncation](
            full, int(full.sum(axis=1).max(initial=0)) if seq_length is None else seq_length
        )
        keep, dropped = _apply_filters({**usable, truncated.reason: truncated.fits})
        self._lengths = truncated.lengths[keep].astype(np.int32)
        self._skip = truncated.skip[keep]
        counts = DataCounts(
            num_rows=len(full),
            num_used=int(keep.sum()),
            dropped=dropped,
            prompts_cut=int((self._skip > 0).sum()),
            responses_cut=int((self._lengths[:, 1:] < full[keep][:, 1:]).sum()),
        )
        super().__init__(sources, _split_by_set(keep, [len(rows) for rows in lengths]), counts)

    def lengths(self) -> NDArray[np.int32]:
        """[rows, 1 + K] int32: tokens of the prompt and of its responses after truncation, 0 for no response."""
        return self._lengths


class FilteredPrompts(FilteredRows):
    """The selected rows of prompts."""

    def __init__(
        self,
        lengths: Sequence[NDArray[Any]],
        sources: Sequence[DataSource],
        max_prompt_length: int | None = None,
        truncation: str = "drop",
    ) -> None:
        """Select the rows.

        Args:
            lengths: [rows] integers of each set: tokens of a prompt.
            sources: Source of each set.
            max_prompt_length: Maximum number of tokens of a prompt; None for no limit.
            truncation: `drop` longer prompts, or `keep_last` to keep their last tokens.

        Raises:
            ValueError: The truncation is unknown, the limit is too small, or no row is fit for training.
        """
        if truncation not in ("drop", "keep_last"):
            raise ValueError(f"truncation of prompts should be drop or keep_last, got {truncation!r}")
        check_limit("max_prompt_length", max_prompt_length, least=1)
        full = np.concatenate(lengths)
        limit = int(full.max(initial=0)) if max_prompt_length is None else max_prompt_length
        fits = np.ones(len(full), bool) if truncation == "keep_last" else full <= limit
        keep, dropped = _apply_filters({"empty_prompt": full > 0, "too_long": fits})
        self._lengths = np.minimum(full[keep], limit).astype(np.int32)
        counts = DataCounts(len(full), int(keep.sum()), dropped, prompts_cut=int((full[keep] > limit).sum()))
        super().__init__(sources, _split_by_set(keep, [len(rows) for rows in lengths]), counts)

    def lengths(self) -> NDArray[np.int32]:
        """[rows] int32: tokens of each prompt after truncation."""
        return self._lengths


def concatenate_lengths(lengths: Sequence[NDArray[np.signedinteger]]) -> NDArray[Any]:
    """Concatenate lengths [rows, 1 + K], signed integers of one type, with zeros for the responses that a set lacks."""
    width = max(part.shape[1] for part in lengths)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in lengths])


def check_limit(name: str, value: int | None, least: int) -> None:
    """Check a limit; None means no limit.

    Raises:
        ValueError: The limit is below `least`.
    """
    if value is not None and value < least:
        raise ValueError(f"{name} should be at least {least}, got {value}")


def _apply_filters(conditions: dict[str, NDArray[np.bool_]]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return the rows [N] bool that meet all conditions, and the number of rows by the first condition they fail."""
    keep = np.ones_like(next(iter(conditions.values())))
    dropped = {}
    for reason, met in conditions.items():
        dropped[reason] = int((keep & ~met).sum())
        keep = keep & met
    return keep, dropped


def _split_by_set(keep: NDArray[np.bool_], sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return the selected rows of each set, relative to its start."""
    return [np.flatnonzero(part) for part in np.split(keep, np.cumsum(sizes)[:-1])]
