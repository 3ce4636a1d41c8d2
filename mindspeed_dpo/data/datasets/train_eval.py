"""Pairs to learn from and sets to evaluate on, as one dataset with one numbering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.data.datasets.dataset import PreferenceDataset
from mindspeed_dpo.data.datasets.filtering import DataCounts, Splits


class TrainEvalPairs:
    """Rows to learn from, by their own numbers, and after them the rows of each evaluation set.

    `len` counts the rows to learn from: what a step samples does not depend on what is evaluated.

    Attributes:
        eval_rows: [n] int64 rows of each evaluation set.
    """

    def __init__(self, learned: PreferenceDataset, sets: Mapping[str, PreferenceDataset]) -> None:
        """Number the rows of all."""
        self._learned = learned
        self._parts = [learned, *sets.values()]
        self._starts = np.cumsum([0, *map(len, self._parts)])
        lengths = [part.lengths() for part in self._parts]
        # Asked for at every step, so joined only once, and not copied where there is one part.
        self._lengths = np.concatenate(lengths) if sets else lengths[0]
        ranges = zip(self._starts[1:-1].tolist(), self._starts[2:].tolist(), strict=True)
        self.eval_rows = {name: np.arange(*part, dtype=np.int64) for name, part in zip(sets, ranges, strict=True)}

    def __len__(self) -> int:
        """Rows to learn from."""
        return len(self._learned)

    @property
    def counts(self) -> DataCounts:
        """What became of the rows to learn from."""
        return self._learned.counts

    def splits(self, split: str) -> Splits:
        """See `FilteredRows.splits`; of the rows to learn from."""
        return self._learned.splits(split)

    def lengths(self) -> NDArray[np.int32]:
        """[all rows, 3] int32: tokens of prompt, chosen and rejected after truncation."""
        return self._lengths

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> PreferenceBatch:
        """The pairs of the given rows, in their order.

        Raises:
            ValueError: They are not all of one set.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        places = np.unique(np.searchsorted(self._starts, numbers, side="right")) - 1
        if len(places) > 1:
            raise ValueError(f"rows {numbers.tolist()} belong to several sets; ask for one at a time")
        place = min(int(places[0]) if len(places) else 0, len(self._parts) - 1)
        return self._parts[place].batch(numbers - self._starts[place])
