"""Which rows a step trains on: a pure function of the step, so that resuming needs nothing but its number."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray


class PairSampler:
    """Epoch after epoch over the rows, each shuffled by its own seed; a batch may straddle two epochs.

    No row is lost or doubled at the seam: sample s is row `order(s // rows)[s % rows]`.
    """

    def __init__(self, num_rows: int, global_batch_size: int, seed: int, shuffle: bool = True) -> None:
        """Settle the order.

        Args:
            num_rows: Rows of an epoch.
            global_batch_size: Pairs of a step, over all data-parallel ranks.
            seed: Of the shuffle; epoch e uses `default_rng([seed, e])`.
            shuffle: False keeps the order of the data.

        Raises:
            ValueError: There is no row, or the batch is empty.
        """
        if num_rows < 1 or global_batch_size < 1:
            raise ValueError(
                f"a sampler needs rows and a batch size of at least 1, got {num_rows} rows and {global_batch_size}"
            )
        self.num_rows = num_rows
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.shuffle = shuffle

    def rows(self, step: int) -> NDArray[np.int64]:
        """[global_batch_size] int64: the rows of a step, counted from 0."""
        return self.window(step * self.global_batch_size, self.global_batch_size)

    def window(self, first_sample: int, count: int) -> NDArray[np.int64]:
        """[count] int64: the rows of `count` samples after `first_sample` consumed ones."""
        samples = np.arange(first_sample, first_sample + count, dtype=np.int64)
        epochs, places = np.divmod(samples, self.num_rows)
        return np.concatenate([self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def epoch(self, step: int) -> float:
        """Epochs done before a step."""
        return step * self.global_batch_size / self.num_rows

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_rows, dtype=np.int64)
        return _permutation(self.num_rows, self.seed, epoch)


@functools.lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of an epoch; kept, as every step of the epoch asks for it. Callers must not write into it."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)
