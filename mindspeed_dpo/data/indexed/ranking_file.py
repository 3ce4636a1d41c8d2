"""Reads a set of rankings: a pair set of the best and the worst responses, with the responses between them.

The responses between are stored without their prompt, one after the other, with their lengths in a column of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, PAIR_COLUMNS, RANKING_COLUMNS, columns_present
from mindspeed_dpo.data.indexed.indexed_dataset import TokenFileError
from mindspeed_dpo.data.indexed.pair_file import PairFile


class RankingFile(PairFile):
    """The token files of rankings, opened for reading; `lengths` has a column for each place of the longest ranking.

    Attributes:
        lengths: [rows, 1 + K] int64, tokens of the prompt and of the responses from the best to the worst; 0 where a
            ranking has no more.
    """

    columns = RANKING_COLUMNS

    def __init__(self, prefix: str | Path) -> None:
        """Open a dataset by the prefix before `_packed`.

        Raises:
            FileNotFoundError: A column is missing.
            TokenFileError: A file is damaged, or ids, labels, lengths and prompts of a row are inconsistent.
        """
        super().__init__(prefix)
        ids, labels, lengths = (self._columns[name] for name in RANKING_COLUMNS[len(PAIR_COLUMNS) :])
        counts = lengths.lengths.astype(np.int64)
        rows = np.repeat(np.arange(len(counts)), counts)
        each = np.asarray(lengths.tokens, np.int64)
        places = np.arange(len(each)) - np.repeat(lengths.starts, counts)
        ends = np.array([0, *np.cumsum(each)])
        starts = np.asarray(lengths.starts, np.int64)
        totals = ends[starts + counts] - ends[starts]
        shortest = np.ones(len(counts), np.int64)
        np.minimum.at(shortest, rows, each)
        same = (ids.lengths == totals) & (labels.lengths == totals)
        self._reject(~same | (shortest < 1), "the lengths of the responses between best and worst do not fit their ids")
        self.has_unscored |= bool((np.asarray(labels.tokens) == IGNORE_INDEX).any())
        prompts_and_best, worst = self.lengths[:, :2], self.lengths[:, 2]
        self.lengths = np.zeros((len(counts), 3 + int(counts.max(initial=0))), np.int64)
        self.lengths[:, :2] = prompts_and_best
        self.lengths[rows, 2 + places] = each
        self.lengths[np.arange(len(counts)), 2 + counts] = worst

    def row(self, row: int) -> tuple[NDArray[np.int32], ...]:
        """Return the prompt and the responses of a row from the best to the worst, each [length] int32.

        Raises:
            TokenFileError: Prompts differ, labels are not the ids of their response, or an id is negative.
        """
        prompt, best, worst = super().row(row)
        ids, labels = self._columns["between_input_ids"][row], self._columns["between_labels"][row]
        if ids.min(initial=0) < 0 or not ((labels == ids) | (labels == IGNORE_INDEX)).all():
            raise TokenFileError(
                f"data_path {self.prefix}: row {row}: a token id between best and worst is negative, or not that of "
                "its label; preprocess again"
            )
        return prompt, best, *self._split(ids, row), worst

    def scored(self, row: int) -> tuple[NDArray[np.bool_], ...]:
        """Return which tokens of the responses of a row are scored, each [length] bool, from the best to the worst."""
        best, worst = super().scored(row)
        return best, *self._split(self._columns["between_labels"][row] != IGNORE_INDEX, row), worst

    def _split(self, values: NDArray, row: int) -> list[NDArray]:
        """Split values of the responses between best and worst by response."""
        return np.split(values, np.cumsum(self._columns["between_lengths"][row]))[:-1]


def open_ranked(prefix: str | Path) -> PairFile:
    """Open a set of rankings, or of pairs, which are rankings of two.

    Raises:
        FileNotFoundError: A column is missing.
        TokenFileError: A file is damaged, or the columns of a row are inconsistent.
    """
    is_ranking = RANKING_COLUMNS[-1] in columns_present(prefix)
    return RankingFile(prefix) if is_ranking else PairFile(prefix)
