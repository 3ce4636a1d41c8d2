"""The objects of an offline run, put together from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from mindspeed_dpo.config.settings.evaluation import HOLD_OUT
from mindspeed_dpo.config.validation.evaluation import evaluation_sets
from mindspeed_dpo.controller.role_groups import ActorHandle, Group, ReferenceHandle
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.data.datasets.train_eval import EvaluatedPairs
from mindspeed_dpo.trainers.checkpoint_policy import Watch
from mindspeed_dpo.trainers.loop import Plan, TrainerOf
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.reference_logprobs import NoReference, cached_reference
from mindspeed_dpo.trainers.run_inputs import Inputs
from mindspeed_dpo.workers.interfaces import Reference


def offline_trainer(inputs: Inputs, groups: Mapping[str, Group]) -> TrainerOf:
    """The trainer of an offline run, its roles built on the groups and standing where the run goes on."""
    config, dataset = inputs.config, inputs.dataset
    assert isinstance(dataset, EvaluatedPairs)
    actor_group = groups["actor_rollout"]
    actor_group.build("actor")
    actor = ActorHandle(actor_group)
    # Before the actor takes up an earlier run's weights: it may be its own reference.
    reference = _reference(inputs, dataset, actor, groups[config.pool_of("ref")])
    inputs.continue_with(actor)
    loop, batch = config.loop, config.actor.batch
    train_rows = inputs.splits.train
    most = loop.eval_iters * batch.global_batch_size if loop.eval_interval else 0
    rows_of = {HOLD_OUT: inputs.splits.valid, **dataset.rows_of}
    lengths = dataset.lengths().astype(np.int64)
    return partial(
        OfflineDPOTrainer,
        actor=actor,
        reference=reference,
        sampler=PairSampler(len(train_rows), batch.global_batch_size, loop.seed, not config.actor.data.no_shuffle),
        train_rows=train_rows,
        eval_sets={name: rows_of[name][:most] for name in evaluation_sets(config)},
        row_tokens=2 * lengths[:, 0] + lengths[:, 1] + lengths[:, 2],
        plan=Plan(
            inputs.first_step,
            loop.train_iters,
            config.actor.checkpoint.save_interval,
            loop.eval_interval,
            loop.eval_at_start,
            config.actor.checkpoint.async_save,
        ),
        watch=Watch.of(config, inputs.continuation),
    )


def _reference(inputs: Inputs, dataset: EvaluatedPairs, actor: ActorHandle, group: Group) -> Reference:
    config = inputs.config
    live = ReferenceHandle(group, settings=config.actor.reference)
    if config.ref is None:
        return NoReference()
    if config.actor.reference.reference == "live":
        group.build("ref")
        return live
    return cached_reference(config, len(dataset), actor, group, live, dataset.rows_of)
