"""The dataset of preference pairs, which reads rows from token files.

A dataset opens one or more sets and reads the rows that `row_filtering` selects, truncated to its lengths. `sampler`
defines the order, epochs and shuffling; `batching` defines micro-batches and padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.data.datasets.row_filtering import FilteredPairs
from mindspeed_dpo.data.datasets.splits_and_blending import DataSource, parse_data_path
from mindspeed_dpo.data.indexed.pair_file import PairFile
from mindspeed_dpo.data.indexed.ranking_file import open_ranked

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
        ranked: bool = False,
    ) -> PreferenceDataset:
        """Open pair sets.

        Args:
            data_path: The prefix before `_packed`, or several as `a,b` or `weight,a,weight,b`.
            seq_length: Maximum number of tokens of a prompt with one response; None for no limit.
            truncation: `cut_prompt`, `keep_start` or `drop`; see `truncation`.
            margin_column: Column with the target margin of each pair; None for none.
            weight_column: Column with the loss factor of each pair, at least 0; None for none.
            ranked: Read all responses of rankings, rather than the best and the worst as a pair.

        Raises:
            FileNotFoundError: A column is missing.
            ValueError: A file is damaged, no row can be used, or an argument is invalid.
        """
        sources = parse_data_path(data_path)
        open_set = open_ranked if ranked else PairFile
        sets = [open_set(source.prefix) for source in sources]
        return cls(sets, sources, seq_length, truncation, margin_column, weight_column)

    def batch(self, rows: Sequence[int] | NDArray[np.int64]) -> PreferenceBatch:
        """Return the pairs of the given dataset rows, [N] integers, in their order; of rankings K is their longest."""
        pieces = [self._pieces(int(row)) for row in rows]
        of_rows = self._lengths[np.asarray(rows, dtype=np.int64)]
        width = max(3, 1 + int((of_rows[:, 1:] > 0).sum(1).max(initial=0)))
        lengths = torch.from_numpy(of_rows[:, :width])
        return PreferenceBatch(
            prompt_tokens=_flat([prompt for prompt, *_ in pieces]),
            prompt_lengths=lengths[:, 0].contiguous(),
            response_tokens=_flat([response for _, *responses in pieces for response in responses]),
            response_lengths=lengths[:, 1:].contiguous(),
            margins=_select(self._margins, rows),
            factors=_select(self._factors, rows),
            scored=self._scored(rows),
        )

    def _scored(self, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor | None:
        """Return which response tokens of dataset rows, [N] integers, are scored, as bool; None if all always are."""
        if not any(pairs.has_unscored for pairs in self._sets):
            return None
        masks = []
        for row in map(int, rows):
            part, inner = self._locate(row)
            lengths = self._lengths[row, 1:]
            masks += [mask[:length] for mask, length in zip(self._sets[part].scored(inner), lengths, strict=False)]
        return torch.from_numpy(np.concatenate(masks)) if masks else torch.empty(0, dtype=torch.bool)

    def _pieces(self, row: int) -> tuple[NDArray[np.int32], ...]:
        part, inner = self._locate(row)
        prompt, *responses = self._sets[part].row(inner)
        # A set may have longer rankings than this row.
        cut = (ids[:length] for ids, length in zip(responses, self._lengths[row, 1:], strict=False))
        return prompt[self._skip[row] :], *cut


def _select(values: Numbers | None, rows: Sequence[int] | NDArray[np.int64]) -> torch.Tensor | None:
    return None if values is None else torch.from_numpy(values[np.asarray(rows, dtype=np.int64)])


def _flat(pieces: Sequence[NDArray[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(pieces)) if pieces else torch.empty(0, dtype=torch.int32)
