"""Token sets as datasets: rows that are fit for training, by number, as batches.

A dataset opens one or more sets, leaves out what cannot be trained on, settles the cuts of long rows, and counts both.
Order, epochs and shuffling are left to `sampler`; padding and micro-batches to those who compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.names import did_you_mean
from mindspeed_dpo.data.pair_set import PairSet
from mindspeed_dpo.data.splits import DataSource, mix_rows, parse_data_path, split_rows
from mindspeed_dpo.data.text_columns import TextColumnsReader
from mindspeed_dpo.data.token_set import open_columns, open_text_columns, text_columns_path
from mindspeed_dpo.data.truncation import PAIR_RULES

Numbers = NDArray[np.float32]


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


class _Rows:
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


class PreferenceDataset(_Rows):
    """Preference pairs by row number, in the order of their files."""

    def __init__(
        self,
        sets: Sequence[PairSet],
        sources: Sequence[DataSource],
        seq_length: int | None = None,
        truncation: str = "cut_prompt",
        margin_column: str | None = None,
        weight_column: str | None = None,
    ) -> None:
        """Use `open` instead, unless the sets are already open."""
        if truncation not in PAIR_RULES:
            raise ValueError(
                f"truncation {truncation!r} is not one of {', '.join(PAIR_RULES)}{did_you_mean(truncation, PAIR_RULES)}"
            )
        _check_limit("seq_length", seq_length, least=2)
        self._sets = sets
        full = np.concatenate([pairs.lengths for pairs in sets])
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
        super().__init__(sources, _rows_by_set(keep, [len(pairs) for pairs in sets]), counts)
        self._margins = self._numbers(margin_column, keep)
        self._factors = self._numbers(weight_column, keep)
        if self._factors is not None and (self._factors < 0).any():
            row = int(np.argmax(self._factors < 0))
            raise ValueError(
                f"weight_column {weight_column!r} is {self._factors[row]} in row {row}; it must not be negative"
            )

    def _numbers(self, name: str | None, keep: NDArray[np.bool_]) -> Numbers | None:
        return None if name is None else np.concatenate([pairs.numbers(name) for pairs in self._sets])[keep]

    @classmethod
    def open(
        cls,
        data_path: str,
        *,
        seq_length: int | None = None,
        truncation: str = "cut_prompt",
        margin_column: str | None = None,
        weight_column: str | None = None,
    ) -> PreferenceDataset:
        """Open pair sets.

        Args:
            data_path: The prefix before `_packed`, or several as `a,b` or `weight,a,weight,b`.
            seq_length: Tokens that prompt and one response may have together; None leaves all rows whole.
            truncation: `cut_prompt`, `keep_start` or `drop`; see `truncation`.
            margin_column: Numbers by which chosen should be ahead, kept with the pairs; None for none.
            weight_column: Factors on the loss, at least 0, kept with the pairs; None for none.

        Raises:
            FileNotFoundError: A column is missing.
            ValueError: A file is damaged, no row is left, or an argument is wrong.
        """
        sources = parse_data_path(data_path)
        sets = [PairSet(source.prefix) for source in sources]
        return cls(sets, sources, seq_length, truncation, margin_column, weight_column)

    def lengths(self) -> NDArray[np.int32]:
        """[rows, 3] int32: tokens of prompt, chosen and rejected after truncation."""
        return self._lengths

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> PreferenceBatch:
        """The pairs of the given rows, in their order."""
        pieces = [self._pieces(int(row)) for row in rows]
        lengths = torch.from_numpy(self._lengths[np.asarray(rows, dtype=np.int64)])
        return PreferenceBatch(
            prompt_tokens=_flat([prompt for prompt, _, _ in pieces]),
            prompt_lengths=lengths[:, 0].contiguous(),
            response_tokens=_flat([answer for _, *answers in pieces for answer in answers]),
            response_lengths=lengths[:, 1:].contiguous(),
            margins=_of_rows(self._margins, rows),
            factors=_of_rows(self._factors, rows),
        )

    def _pieces(self, row: int) -> tuple[NDArray[np.int32], ...]:
        part, inner = self._locate(row)
        prompt, chosen, rejected = self._sets[part].row(inner)
        return prompt[self._skip[row] :], chosen[: self._lengths[row, 1]], rejected[: self._lengths[row, 2]]


class PromptDataset(_Rows):
    """Prompts by row number, in the order of their files."""

    def __init__(self, data_path: str, max_prompt_length: int | None = None, truncation: str = "drop") -> None:
        """Use `open`."""
        if truncation not in ("drop", "keep_last"):
            raise ValueError(f"truncation of prompts should be drop or keep_last, got {truncation!r}")
        _check_limit("max_prompt_length", max_prompt_length, least=1)
        sources = parse_data_path(data_path)
        self._readers = [open_columns(source.prefix, ("input_ids",))["input_ids"] for source in sources]
        self._texts = [
            open_text_columns(source.prefix, len(reader)) for source, reader in zip(sources, self._readers, strict=True)
        ]
        self._prefixes = [source.prefix for source in sources]
        full = np.concatenate([reader.lengths for reader in self._readers])
        limit = int(full.max(initial=0)) if max_prompt_length is None else max_prompt_length
        fits = np.ones(len(full), bool) if truncation == "keep_last" else full <= limit
        keep, dropped = _left_after({"empty_prompt": full > 0, "too_long": fits})
        self._lengths = np.minimum(full[keep], limit).astype(np.int32)
        counts = DataCounts(len(full), int(keep.sum()), dropped, prompts_cut=int((full[keep] > limit).sum()))
        super().__init__(sources, _rows_by_set(keep, [len(reader) for reader in self._readers]), counts)

    @classmethod
    def open(cls, data_path: str, *, max_prompt_length: int | None = None, truncation: str = "drop") -> PromptDataset:
        """Open prompt sets.

        Args:
            data_path: As for pairs.
            max_prompt_length: Tokens a prompt may have; None leaves all whole.
            truncation: `drop` longer prompts, or `keep_last` of their tokens, where the header of the answer is.

        Raises:
            FileNotFoundError: The column `input_ids` is missing.
            ValueError: A file is damaged, no row is left, or an argument is wrong.
        """
        return cls(data_path, max_prompt_length, truncation)

    def lengths(self) -> NDArray[np.int32]:
        """[rows] int32: tokens of each prompt after truncation."""
        return self._lengths

    def prompts(self, rows: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The prompts of the given rows, each [length] int32."""
        located = ((int(row), *self._locate(int(row))) for row in rows)
        return [self._readers[part][inner][-int(self._lengths[row]) :] for row, part, inner in located]

    @property
    def column_names(self) -> tuple[str, ...]:
        """What the prompts of every set carry beside their tokens: `messages`, and the additional keys."""
        first, *others = ((texts.names if texts else ()) for texts in self._texts)
        return tuple(name for name in first if all(name in names for names in others))

    def columns(
        self, rows: Sequence[int] | NDArray[np.int64], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """What prompts carry beside their tokens, as it was in the raw data.

        Args:
            rows: Of the dataset, as for `prompts`; dropped rows are not counted.
            names: Which columns; None gives all that every set has.

        Returns:
            Column -> the values of the rows, in their order. `messages` is a list of {role, content}, uncut.

        Raises:
            ValueError: A set lacks a column; says how to make it.
        """
        for prefix, texts in zip(self._prefixes, self._texts, strict=True):
            _check_columns(prefix, texts, names)
        located = [self._locate(int(row)) for row in rows]
        wanted = self.column_names if names is None else names
        return {name: [self._value(part, inner, name) for part, inner in located] for name in wanted}

    def _value(self, part: int, row: int, name: str) -> Any:
        texts = self._texts[part]
        return texts.value(row, name) if texts else None


def _check_columns(prefix: str, texts: TextColumnsReader | None, names: Sequence[str] | None) -> None:
    if texts is None:
        raise ValueError(
            f"data_path {prefix}: there is no {text_columns_path(prefix)}, which holds the messages and further "
            "columns of prompts: the set was made by an earlier version or another tool. Run preprocess_data.py again"
        )
    for name in names or ():
        if name not in texts.names:
            raise ValueError(
                f"data_path {prefix}: prompts have no column {name!r}, only {', '.join(texts.names)}"
                f"{did_you_mean(name, texts.names)}; run preprocess_data.py again with it in dataset_additional_keys"
            )


def _check_limit(name: str, value: int | None, least: int) -> None:
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


def _of_rows(values: Numbers | None, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values[np.asarray(rows, dtype=np.int64)])


def _flat(pieces: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pieces)) if pieces else torch.empty(0, dtype=torch.int32)
