"""Datasets of preference pairs and of prompts, which read rows from token files.

A dataset opens one or more sets and reads the rows that `filtering` selects, truncated to its lengths. `sampler`
defines the order, epochs and shuffling; `batching` defines micro-batches and padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.datasets.filtering import FilteredPairs, FilteredPrompts, check_limit
from mindspeed_dpo.data.datasets.splits_and_blending import DataSource, parse_data_path
from mindspeed_dpo.data.indexed.column_group import PROMPT_COLUMNS, open_columns, open_text_columns, text_columns_path
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.pair_file import PairFile
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader

Numbers = NDArray[np.float32]


class PreferenceDataset(FilteredPairs):
    """Preference pairs by row number, in the order of their files."""

    def __init__(
        self,
        sets: Sequence[PairFile],
        sources: Sequence[DataSource],
        seq_length: int | None = None,
        truncation: str = "cut_prompt",
        margin_column: str | None = None,
        weight_column: str | None = None,
    ) -> None:
        """Create a dataset from open sets; `open` opens them.

        Raises:
            ValueError: No row can be used, or a factor is negative.
        """
        super().__init__([pairs.lengths for pairs in sets], sources, seq_length, truncation)
        self._sets = sets
        self._margins = self._numbers(margin_column)
        self._factors = self._numbers(weight_column)
        if self._factors is not None and (self._factors < 0).any():
            row = int(np.argmax(self._factors < 0))
            raise ValueError(
                f"weight_column {weight_column!r} is {self._factors[row]} in row {row}; it must not be negative"
            )

    def _numbers(self, name: str | None) -> Numbers | None:
        """Read a numeric column of the selected rows."""
        if name is None:
            return None
        columns = [pairs.numbers(name) for pairs in self._sets]
        return np.concatenate([column[rows] for column, rows in zip(columns, self._rows_by_set, strict=True)])

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
            seq_length: Maximum number of tokens of a prompt with one response; None for no limit.
            truncation: `cut_prompt`, `keep_start` or `drop`; see `truncation`.
            margin_column: Column with the target margin of each pair; None for none.
            weight_column: Column with the loss factor of each pair, at least 0; None for none.

        Raises:
            FileNotFoundError: A column is missing.
            ValueError: A file is damaged, no row can be used, or an argument is invalid.
        """
        sources = parse_data_path(data_path)
        sets = [PairFile(source.prefix) for source in sources]
        return cls(sets, sources, seq_length, truncation, margin_column, weight_column)

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> PreferenceBatch:
        """Return the pairs of the given dataset rows, [N] integers, in their order."""
        pieces = [self._pieces(int(row)) for row in rows]
        lengths = torch.from_numpy(self._lengths[np.asarray(rows, dtype=np.int64)])
        return PreferenceBatch(
            prompt_tokens=_flat([prompt for prompt, _, _ in pieces]),
            prompt_lengths=lengths[:, 0].contiguous(),
            response_tokens=_flat([response for _, *responses in pieces for response in responses]),
            response_lengths=lengths[:, 1:].contiguous(),
            margins=_select(self._margins, rows),
            factors=_select(self._factors, rows),
        )

    def _pieces(self, row: int) -> tuple[NDArray[np.int32], ...]:
        part, inner = self._locate(row)
        prompt, chosen, rejected = self._sets[part].row(inner)
        return prompt[self._skip[row] :], chosen[: self._lengths[row, 1]], rejected[: self._lengths[row, 2]]


class PromptDataset(FilteredPrompts):
    """Prompts by row number, in the order of their files."""

    def __init__(self, data_path: str, max_prompt_length: int | None = None, truncation: str = "drop") -> None:
        """Open prompt sets as `open` does."""
        check_limit("max_prompt_length", max_prompt_length, least=1)
        sources = parse_data_path(data_path)
        self._readers = [open_columns(source.prefix, PROMPT_COLUMNS[:1])["input_ids"] for source in sources]
        super().__init__([reader.lengths for reader in self._readers], sources, max_prompt_length, truncation)
        self._texts = [
            open_text_columns(source.prefix, len(reader)) for source, reader in zip(sources, self._readers, strict=True)
        ]
        self._prefixes = [source.prefix for source in sources]

    @classmethod
    def open(cls, data_path: str, *, max_prompt_length: int | None = None, truncation: str = "drop") -> PromptDataset:
        """Open prompt sets.

        Args:
            data_path: The prefix before `_packed`, or several as `a,b` or `weight,a,weight,b`.
            max_prompt_length: Maximum number of tokens of a prompt; None for no limit.
            truncation: `drop` longer prompts, or `keep_last` for their last tokens with the response header.

        Raises:
            FileNotFoundError: The column `input_ids` is missing.
            ValueError: A file is damaged, no row can be used, or an argument is invalid.
        """
        return cls(data_path, max_prompt_length, truncation)

    def prompts(self, rows: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Return the prompts of the given rows, each [length] int32.

        Raises:
            TokenFileError: A token id is negative.
        """
        return [self._prompt(int(row)) for row in rows]

    def _prompt(self, row: int) -> NDArray[np.int32]:
        part, inner = self._locate(row)
        ids = self._readers[part][inner][-int(self._lengths[row]) :]
        if ids.min() < 0:
            raise TokenFileError(
                f"data_path {self._prefixes[part]}: row {inner}: a token id is negative; preprocess again"
            )
        return ids

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the text columns that all sets have: `messages` and the additional keys."""
        first, *others = ((texts.names if texts else ()) for texts in self._texts)
        return tuple(name for name in first if all(name in names for names in others))

    def columns(
        self, rows: Sequence[int] | NDArray[np.int64], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Return text columns of prompts, decoded to their raw values, for rows [N] of any integer dtype.

        Args:
            rows: Dataset rows, as for `prompts`.
            names: Column names; None for all columns that every set has.

        Returns:
            Column -> the values of the rows, in their order. `messages` is an untruncated list of {role, content}.

        Raises:
            ValueError: A set lacks a column; the message says how to create it.
        """
        for prefix, texts in zip(self._prefixes, self._texts, strict=True):
            _check_columns(prefix, texts, names)
        located = [self._locate(int(row)) for row in rows]
        selected = self.column_names if names is None else names
        return {name: [self._value(part, inner, name) for part, inner in located] for name in selected}

    def _value(self, part: int, row: int, name: str) -> Any:
        texts = self._texts[part]
        return texts.value(row, name) if texts else None


def _check_columns(prefix: str, texts: TextColumnsReader | None, names: Sequence[str] | None) -> None:
    if texts is None:
        raise ValueError(
            f"data_path {prefix}: there is no {text_columns_path(prefix)}, which contains the messages and "
            "further columns of prompts: the set was created by an earlier version or another tool. "
            "Run preprocess_data.py again"
        )
    for name in names or ():
        if name not in texts.names:
            raise ValueError(
                f"data_path {prefix}: prompts have no column {name!r}, only {', '.join(texts.names)}"
                f"{did_you_mean(name, texts.names)}; run preprocess_data.py again with it in dataset_additional_keys"
            )


def _select(values: Numbers | None, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values[np.asarray(rows, dtype=np.int64)])


def _flat(pieces: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pieces)) if pieces else torch.empty(0, dtype=torch.int32)
