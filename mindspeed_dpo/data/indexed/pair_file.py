"""Reads a pair dataset: checks its four columns against each other and returns rows as prompt, chosen and rejected.

Every sequence is a prompt with a response. The first label that is not ignored marks the start of the response; later
ignored labels mark tokens that are not scored, such as the result of a tool. Row counts and lengths are checked when a
dataset is opened, tokens when a row is read.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.name_suggestions import did_you_mean
from mindspeed_dpo.data.indexed.column_group import IGNORE_INDEX, PAIR_COLUMNS, open_columns, open_text_columns
from mindspeed_dpo.data.indexed.indexed_dataset import IndexedDatasetReader, TokenFileError

_SCAN_NUMBERS = 1 << 24
"""Number of labels scanned at a time (64 MiB), so that memory is bounded for datasets of any size."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_MAX_FLOAT32 = float(np.finfo(np.float32).max)


class PairFile:
    """The token files of one pair dataset, opened for reading.

    Attributes:
        lengths: [rows, 3] int64, tokens of prompt, chosen and rejected response.
        has_unscored: Whether a response has tokens that are not scored.
        columns: Names of the columns that are read.
    """

    columns: tuple[str, ...] = PAIR_COLUMNS

    def __init__(self, prefix: str | Path) -> None:
        """Open a dataset by the prefix before `_packed`.

        Raises:
            FileNotFoundError: A column is missing.
            TokenFileError: A file is damaged, or ids, labels and prompts of a row are inconsistent.
        """
        self.prefix = str(prefix)
        self._columns = open_columns(prefix, self.columns)
        self.has_unscored = False
        prompts, responses = zip(
            *(self._response_lengths(response) for response in ("chosen", "rejected")), strict=True
        )
        # Without response tokens the prompt length is undefined; the dataset drops such rows.
        both = (responses[0] > 0) & (responses[1] > 0)
        self._reject(both & (prompts[0] != prompts[1]), "chosen and rejected have prompts of different lengths")
        self.lengths = np.stack([prompts[0], *responses], axis=1)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.lengths)

    def numbers(self, name: str) -> NDArray[np.float32]:
        """Return a numeric text column, [rows] float32; a text is a number if it is written as one, as in csv files.

        Raises:
            TokenFileError: The column does not exist, or a value is not a finite number.
        """
        texts = open_text_columns(self.prefix, len(self), PAIR_COLUMNS)
        if texts is None or name not in texts.names:
            present = f"only {', '.join(texts.names)}{did_you_mean(name, texts.names)}" if texts else "none"
            raise TokenFileError(
                f"data_path {self.prefix}: pairs have no column {name!r}, {present}; run preprocess_data.py again with "
                "it in dataset_additional_keys"
            )
        return np.asarray([self._number(texts.value(row, name), row, name) for row in range(len(self))], np.float32)

    def _number(self, value: Any, row: int, name: str) -> float:
        is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
        is_written = isinstance(value, str) and _NUMBER.fullmatch(value.strip())
        number = float(value) if is_numeric or is_written else math.nan
        if not abs(number) <= _MAX_FLOAT32:
            raise TokenFileError(f"data_path {self.prefix}: row {row}: {name} is {value!r:.80}, not a finite number")
        return number

    def _response_lengths(self, response: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        ids, labels = self._columns[f"{response}_input_ids"], self._columns[f"{response}_labels"]
        self._reject(ids.lengths != labels.lengths, f"{response} ids and labels differ in length")
        prompt, trained = prompt_and_trained(labels)
        lengths = labels.lengths - prompt
        self.has_unscored |= bool((trained != lengths).any())
        return prompt, lengths

    def _reject(self, invalid: NDArray[np.bool_], what: str) -> None:
        if invalid.any():
            raise TokenFileError(f"data_path {self.prefix}: row {int(np.argmax(invalid))}: {what}; preprocess again")

    def row(self, row: int) -> tuple[NDArray[np.int32], ...]:
        """Return prompt, chosen and rejected response of a row, each [length] int32.

        Raises:
            TokenFileError: The two prompts differ, labels are not the ids of their response, or an id is negative.
        """
        cut = int(self.lengths[row, 0])
        chosen, rejected = (self._columns[f"{response}_input_ids"][row] for response in ("chosen", "rejected"))
        same = np.array_equal(chosen[:cut], rejected[:cut])
        for ids, labels in zip((chosen, rejected), self._labels(row), strict=True):
            same = same and bool(((labels == ids[cut:]) | (labels == IGNORE_INDEX)).all())
        if not same:
            raise TokenFileError(
                f"data_path {self.prefix}: row {row}: the prompts differ, or labels are not the ids of their response; "
                "preprocess again"
            )
        if min(chosen.min(initial=0), rejected.min(initial=0)) < 0:
            raise TokenFileError(f"data_path {self.prefix}: row {row}: a token id is negative; preprocess again")
        return chosen[:cut], chosen[cut:], rejected[cut:]

    def scored(self, row: int) -> tuple[NDArray[np.bool_], ...]:
        """Return which tokens of the chosen and of the rejected response of a row are scored, each [length] bool."""
        return tuple(labels != IGNORE_INDEX for labels in self._labels(row))

    def _labels(self, row: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the labels of both responses of a row, each [length] int32."""
        cut = int(self.lengths[row, 0])
        chosen, rejected = (self._columns[f"{response}_labels"][row][cut:] for response in ("chosen", "rejected"))
        return chosen, rejected


def prompt_and_trained(labels: IndexedDatasetReader) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the ignored labels before the first trained one, and the trained labels, of each row.

    Returns:
        Two arrays [rows] int64. A row without a trained label is counted as prompt.
    """
    prompt = labels.lengths.astype(np.int64)
    trained = np.zeros(len(labels), np.int64)
    for rows, numbers in labels.chunks(_SCAN_NUMBERS):
        positions = np.flatnonzero(numbers != IGNORE_INDEX)
        starts = labels.starts[rows] - labels.starts[rows.start]
        first = np.searchsorted(positions, starts)
        trained[rows] = np.searchsorted(positions, starts + labels.lengths[rows]) - first
        some = trained[rows] > 0
        prompt[rows][some] = positions[first[some]] - starts[some]
    return prompt, trained
