"""The rows of the dataset that a run reads: those of its steps, and those of its evaluations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.config.settings.evaluation import HOLD_OUT
from mindspeed_dpo.config.validation.evaluation import evaluation_sets
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs, TrainEvalPrompts
from mindspeed_dpo.trainers.run_inputs import RunInputs


def pair_sampler(inputs: RunInputs) -> PairSampler:
    """Return the sampler that chooses the rows of each step among those for training."""
    actor, num_rows = inputs.config.actor, len(inputs.splits.train)
    return PairSampler(num_rows, actor.batch.global_batch_size, inputs.config.loop.seed, not actor.data.no_shuffle)


def evaluation_rows(inputs: RunInputs, dataset: TrainEvalPairs | TrainEvalPrompts) -> dict[str, NDArray[np.int64]]:
    """Return the dataset rows [n] int64 of each evaluation set that an evaluation reads."""
    loop, batch = inputs.config.loop, inputs.config.actor.batch
    max_rows = loop.eval_iters * batch.global_batch_size if loop.eval_interval else 0
    rows = {HOLD_OUT: inputs.splits.valid, **dataset.eval_rows}
    return {name: rows[name][:max_rows] for name in evaluation_sets(inputs.config)}


def rows_to_read(inputs: RunInputs, eval_sets: Mapping[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the dataset rows [n] int64, ascending, that the remaining steps and evaluations read."""
    batch_size = inputs.config.actor.batch.global_batch_size
    num_samples = max(0, inputs.config.loop.train_iters - inputs.first_step) * batch_size
    sampled = pair_sampler(inputs).distinct_rows(inputs.first_step * batch_size, num_samples)
    return np.unique(np.concatenate([inputs.splits.train[sampled], *eval_sets.values()]))


def num_reference_rows(inputs: RunInputs) -> int:
    """Return the number of dataset rows of which the run stores the reference's log-probabilities."""
    dataset = inputs.dataset
    return len(rows_to_read(inputs, evaluation_rows(inputs, dataset))) if isinstance(dataset, TrainEvalPairs) else 0
