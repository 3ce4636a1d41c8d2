"""Builds the roles and the trainer of an offline run: the actor, and what its reference log-probabilities need."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.evaluated_pairs import EvaluatedPairs
from mindspeed_dpo.trainers.follow_actor import follow_actor
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.reference_logprobs import NoReference, ReferenceSource, cached_reference
from mindspeed_dpo.trainers.row_selection import evaluation_rows, pair_sampler, rows_to_read
from mindspeed_dpo.trainers.run_inputs import RunInputs


def offline_trainer(inputs: RunInputs, groups: Mapping[str, WorkerGroup]) -> partial[OfflineDPOTrainer]:
    """Build the roles of an offline run and load its checkpoint; the trainer then needs only a `tracker`."""
    config, dataset = inputs.config, inputs.dataset
    assert isinstance(dataset, TrainEvalPairs)
    groups["actor_rollout"].build("actor")
    actor = ActorGroup(groups["actor_rollout"])
    # Before the actor loads a checkpoint: the initial policy may compute the reference log-probabilities.
    eval_sets = evaluation_rows(inputs, dataset)
    reference = _reference(inputs, dataset, actor, groups, eval_sets)
    inputs.load_checkpoint(actor)
    lengths = dataset.lengths().astype(np.int64)
    return partial(
        OfflineDPOTrainer,
        actor=actor,
        reference=reference,
        sampler=pair_sampler(inputs),
        train_rows=inputs.splits.train,
        eval_sets=eval_sets,
        row_tokens=lengths[:, 0] * (lengths[:, 1:] > 0).sum(1) + lengths[:, 1:].sum(1),
        evaluated_pairs=EvaluatedPairs.of(config, dataset),
        schedule=LoopSchedule.of(config, inputs.first_step),
        checkpoint_policy=CheckpointPolicy.of(config, inputs.resume_point),
        recorded=inputs.recorded,
    )


def _reference(
    inputs: RunInputs,
    dataset: TrainEvalPairs,
    actor: ActorGroup,
    groups: Mapping[str, WorkerGroup],
    eval_sets: Mapping[str, NDArray[np.int64]],
) -> ReferenceSource:
    config, group = inputs.config, groups[inputs.config.pool_of("ref")]
    live = ReferenceGroup(group, settings=config.actor.reference)
    if config.ref is None:
        return NoReference()
    if config.actor.reference.reference == "live":
        group.build("ref")
        follow_actor(config, actor, live, groups["actor_rollout"], group)
        return live
    needed = rows_to_read(inputs, eval_sets)
    return cached_reference(config, len(dataset), actor, group, live, dataset.eval_rows, needed)
