"""Samplers compute the rows of a step as a pure function of its number, so resuming needs no other state."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.data_fingerprint import data_fingerprint, prompts_fingerprint
from mindspeed_dpo.data.datasets.splits_and_blending import parse_data_path


class PairSampler:
    """Samples rows epoch by epoch, each with its own shuffle; a batch may span two epochs.

    No row is skipped or repeated between epochs: sample s is row `order(s // rows)[s % rows]`.
    """

    def __init__(self, num_rows: int, global_batch_size: int, seed: int, shuffle: bool = True) -> None:
        """Define the order.

        Args:
            num_rows: Number of rows of an epoch.
            global_batch_size: Number of pairs of a step over all data-parallel ranks.
            seed: Seed of the shuffle; epoch e uses `default_rng([seed, e])`.
            shuffle: Shuffle every epoch; otherwise rows are in file order.

        Raises:
            ValueError: The number of rows or the batch size is below 1.
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
        """Return the rows [global_batch_size] int64 of a step, which counts from 0."""
        return self.window(step * self.global_batch_size, self.global_batch_size)

    def window(self, first_sample: int, count: int) -> NDArray[np.int64]:
        """Return the rows [count] int64 of `count` samples, starting after `first_sample` consumed ones."""
        samples = np.arange(first_sample, first_sample + count, dtype=np.int64)
        epochs, places = np.divmod(samples, self.num_rows)
        return np.concatenate([self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def distinct_rows(self, first_sample: int, count: int) -> NDArray[np.int64]:
        """Return the rows [n] int64, ascending, of `count` samples after `first_sample` consumed ones."""
        # A complete epoch among them has every row; epochs that are cut off on both sides need no check.
        starts_epoch = -(-first_sample // self.num_rows) * self.num_rows
        if starts_epoch + self.num_rows <= first_sample + count:
            return np.arange(self.num_rows, dtype=np.int64)
        return np.unique(self.window(first_sample, count)) if count else np.zeros(0, np.int64)

    def epoch(self, step: int) -> float:
        """Return the number of epochs before a step."""
        return step * self.global_batch_size / self.num_rows

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(self.num_rows, dtype=np.int64)
        return _permutation(self.num_rows, self.seed, epoch)


@functools.lru_cache(maxsize=4)
def _permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the row order of an epoch, [rows] int64; cached for all its steps, so callers must not modify it."""
    return np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)


def sampling_of(run: RunConfig, num_rows: int) -> dict[str, Any]:
    """Return all settings that decide which rows a step samples: equal for two runs only if they sample the same."""
    role = run.actor
    return {
        "global_batch_size": role.batch.global_batch_size,
        "seed": run.loop.seed,
        "rows": num_rows,
        "split": role.data.split,
        "no_shuffle": role.data.no_shuffle,
        "weights": [source.weight for source in parse_data_path(role.data.data_path)],
        "data": prompts_fingerprint(role.data, role.rollout)
        if run.is_online
        else data_fingerprint(role.data, ranked=run.trains_reward_model),
    }
