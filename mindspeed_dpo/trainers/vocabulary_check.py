"""Whether the data has tokens that the model does not have, by some of its rows, before devices are taken.

Workers check every row when they read it. This finds data of another tokenizer earlier, and in a dry run.
"""

from __future__ import annotations

import numpy as np

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs, TrainEvalPrompts
from mindspeed_dpo.workers.batching.token_range import check_token_range

NUM_ROWS = 64
"""Training rows that are read."""
GROUP = 8
"""Rows that are read, and named, together."""


def check_vocabulary(config: RunConfig, dataset: TrainEvalPairs | TrainEvalPrompts) -> None:
    """Check rows spread evenly over the training data.

    Raises:
        ValueError: A token is none of the model's.
    """
    count = min(NUM_ROWS, len(dataset))
    chosen = np.unique(np.linspace(0, len(dataset) - 1, count).astype(np.int64)) if count else np.empty(0, np.int64)
    for start in range(0, len(chosen), GROUP):
        rows = chosen[start : start + GROUP]
        lowest, highest = _token_range(dataset, rows)
        check_token_range(lowest, highest, rows.tolist(), config.actor.model.vocab_size)


def _token_range(dataset: TrainEvalPairs | TrainEvalPrompts, rows: np.ndarray) -> tuple[int, int]:
    if isinstance(dataset, TrainEvalPairs):
        return dataset.batch(rows).token_range()
    tokens = np.concatenate(dataset.prompts(rows))
    return (int(tokens.min()), int(tokens.max())) if len(tokens) else (0, 0)
