"""The dataset of prompts, with the columns that rewards read.

It opens one or more sets and reads the rows that `row_filtering` selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.datasets.row_filtering import FilteredPrompts, check_limit
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path
from mindspeed_dpo.data.indexed.column_group import PROMPT_COLUMNS, open_columns, open_text_columns, text_columns_path
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.text_columns import TextColumnsReader


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
