"""Builds the roles and the trainer of an online run: actor, rollout, reference and reward."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup, RewardGroup, RolloutGroup
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPrompts
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import read_rollouts
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.report.sample_files import SAMPLES_FILE
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.follow_actor import follow_actor
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.online_evaluation import OnlineEvaluation
from mindspeed_dpo.trainers.reference_responses import reference_responses
from mindspeed_dpo.trainers.row_selection import evaluation_rows, pair_sampler
from mindspeed_dpo.trainers.run_inputs import RunInputs
from mindspeed_dpo.trainers.sample_table import SampleTable

logger = logging.getLogger(__name__)

ONLINE_ROLES = ("actor", "rollout", "ref", "reward")
"""In the order in which they are built: a rollout may use the weights of the actor in its process."""


def online_trainer(inputs: RunInputs, groups: Mapping[str, WorkerGroup]) -> partial[OnlineDPOTrainer]:
    """Build the roles of an online run and load its checkpoint; the trainer then needs only a `tracker`."""
    config, group_of = inputs.config, {role: groups[inputs.config.pool_of(role)] for role in ONLINE_ROLES}
    for role, group in group_of.items():
        group.build(role)
    actor = ActorGroup(group_of["actor"])
    reference = ReferenceGroup(group_of["ref"], settings=config.actor.reference)
    follow_actor(config, actor, reference, group_of["actor"], group_of["ref"])
    inputs.load_checkpoint(actor)
    rollout, reward = _rollout(inputs, group_of), RewardGroup(group_of["reward"])
    return partial(
        OnlineDPOTrainer,
        actor=actor,
        rollout=rollout,
        reward=reward,
        reference=reference,
        sampler=pair_sampler(inputs),
        train_rows=inputs.splits.train,
        pairing=config.actor.pairing,
        samples=_samples(config, inputs.first_step),
        evaluation=_online_evaluation(inputs, rollout, reward),
        staleness=config.actor.rollout.rollout_staleness,
        saved_rollouts=_saved_rollouts(inputs),
        is_reward_aware=config.actor.loss.is_reward_aware,
        num_tokens=inputs.total("num_tokens"),
        schedule=LoopSchedule.of(config, inputs.first_step),
        checkpoint_policy=CheckpointPolicy.of(config, inputs.resume_point),
        recorded=inputs.recorded,
    )


def _rollout(inputs: RunInputs, group_of: Mapping[str, WorkerGroup]) -> RolloutGroup:
    """Connect the rollout with the actor and transfer the actor's current weights to it."""
    actor = inputs.config.actor
    rollout = RolloutGroup(
        group_of["rollout"],
        group_of["actor"],
        num_senders=actor.parallel.pipeline_model_parallel_size,
        validate=actor.rollout.md5_validate,
    )
    with live_status.phase("weights to the rollout"):
        rollout.update_weights(inputs.first_step)
    return rollout


def _online_evaluation(inputs: RunInputs, rollout: RolloutGroup, reward: RewardGroup) -> OnlineEvaluation | None:
    """Generate or read the reference's responses to the prompts of evaluations; None without any."""
    dataset = inputs.dataset
    if not inputs.config.loop.evaluates or not isinstance(dataset, TrainEvalPrompts):
        return None
    sets = evaluation_rows(inputs, dataset)
    references = reference_responses(inputs, rollout, sets)
    size = inputs.config.actor.batch.global_batch_size
    return OnlineEvaluation(rollout, reward, references, size, len(sets) > 1) if references else None


def _saved_rollouts(inputs: RunInputs) -> RolloutBatch | None:
    """Return the rollouts for the first step that the checkpoint holds, unless the run no longer fits them."""
    settings, resume_point = inputs.config.actor, inputs.resume_point
    if resume_point is None or not settings.rollout.rollout_staleness:
        return None
    saved = read_rollouts(resume_point.folder)
    if saved is None:
        return None
    was, now = saved.num_responses, settings.rollout.n_samples_per_prompt
    if was != now:
        logger.warning(
            "step %d: discarding prefetched rollouts and generating again: n_samples_per_prompt was %d and is %d",
            *(inputs.first_step + 1, was, now),
        )
        return None
    return saved


def _samples(config: RunConfig, first_step: int) -> SampleTable:
    tokenizer = load_tokenizer(str(config.actor.data.tokenizer_name_or_path))
    return SampleTable(
        Path(config.loop.output_dir, SAMPLES_FILE),
        tokenizer.decode,
        config.actor.rollout.log_samples_interval,
        first_step,
    )
