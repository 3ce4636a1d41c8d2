"""Combines the training rows and the evaluation sets into one dataset with consecutive row numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.prompt_dataset import PromptDataset
from mindspeed_dpo.data.datasets.row_filtering import DataCounts, FilteredRows, Splits, concatenate_lengths

D = TypeVar("D", bound=FilteredRows)


class TrainEvalRows(Generic[D]):
    """The training rows, followed by the rows of each evaluation set.

    `len` is the number of training rows, so that sampling does not depend on the evaluation sets.

    Attributes:
        eval_rows: [n] int64 rows of each evaluation set.
    """

    def __init__(self, train: D, sets: Mapping[str, D]) -> None:
        """Combine the training rows with evaluation sets by name."""
        self._train = train
        self._parts = [train, *sets.values()]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        ranges = zip(self._starts[1:-1].tolist(), self._starts[2:].tolist(), strict=True)
        self.eval_rows = {name: np.arange(*part, dtype=np.int64) for name, part in zip(sets, ranges, strict=True)}

    def __len__(self) -> int:
        """Number of training rows."""
        return len(self._train)

    @property
    def counts(self) -> DataCounts:
        """Counts of the training rows by outcome."""
        return self._train.counts

    def splits(self, split: str) -> Splits:
        """Split the training rows as `FilteredRows.splits` does."""
        return self._train.splits(split)

    def _located(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[D, NDArray[np.int64]]:
        """Return the set that the given rows belong to, and their numbers in it.

        Raises:
            ValueError: They belong to several sets.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        places = np.unique(np.searchsorted(self._starts, numbers, side="right")) - 1
        if len(places) > 1:
            raise ValueError(f"rows {numbers.tolist()} belong to several sets; request the rows of one set at a time")
        place = min(int(places[0]) if len(places) else 0, len(self._parts) - 1)
        return self._parts[place], numbers - self._starts[place]


class TrainEvalPairs(TrainEvalRows[PreferenceDataset]):
    """Preference pairs to train and to evaluate on."""

    def __init__(self, train: PreferenceDataset, sets: Mapping[str, PreferenceDataset]) -> None:
        """Combine the training pairs with evaluation sets by name."""
        super().__init__(train, sets)
        lengths = [part.lengths() for part in self._parts]
        # Used at every step: concatenated once, and not copied if there is only one part.
        self._lengths = concatenate_lengths(lengths) if sets else lengths[0]

    def lengths(self) -> NDArray[np.int32]:
        """Return [all rows, 1 + K] int32: tokens of the prompt and of its responses, 0 for none, after truncation."""
        return self._lengths

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> PreferenceBatch:
        """Return the pairs of the given rows [N] int64, in their order.

        Raises:
            ValueError: The rows belong to several sets.
        """
        part, numbers = self._located(rows)
        return part.batch(numbers)


class TrainEvalPrompts(TrainEvalRows[PromptDataset]):
    """Prompts to train and to evaluate on."""

    def __init__(self, train: PromptDataset, sets: Mapping[str, PromptDataset]) -> None:
        """Combine the training prompts with evaluation sets by name.

        Raises:
            ValueError: A set lacks a text column of the training prompts, which the reward may read.
        """
        super().__init__(train, sets)
        for name, part in sets.items():
            missing = [column for column in train.column_names if column not in part.column_names]
            if missing:
                raise ValueError(
                    f"eval_data_path: the prompts of set {name} have no column {missing[0]!r}, which those of "
                    "data_path have; preprocess both with the same dataset_additional_keys"
                )

    def lengths(self) -> NDArray[np.int32]:
        """Return [training rows] int32: tokens of each training prompt after truncation."""
        return self._train.lengths()

    def prompts(self, rows: Sequence[int] | NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Return the prompts of the given rows, each [length] int32.

        Raises:
            ValueError: The rows belong to several sets, or a token id is negative.
        """
        part, numbers = self._located(rows)
        return part.prompts(numbers)

    def columns(self, rows: Sequence[int] | NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return text columns of the prompts of rows [N] of any integer dtype, as `PromptDataset.columns` does.

        Raises:
            ValueError: The rows belong to several sets, or have no text columns.
        """
        part, numbers = self._located(rows)
        return part.columns(numbers)
