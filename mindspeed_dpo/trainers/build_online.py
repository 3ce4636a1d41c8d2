"""The objects of an online run, put together from its configuration."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorHandle, Group, ReferenceHandle, RewardHandle, RolloutHandle
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.engine.rollout_checkpoint import read_answers
from mindspeed_dpo.trainers.checkpoint_policy import Watch
from mindspeed_dpo.trainers.loop import Plan, TrainerOf
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.run_inputs import Inputs
from mindspeed_dpo.trainers.sample_table import SAMPLES_FILE, SampleTable

logger = logging.getLogger(__name__)

ROLES = ("actor", "rollout", "ref", "reward")
"""In the order in which they are built: a rollout may use the weights of the actor beside it."""


def online_trainer(inputs: Inputs, groups: Mapping[str, Group]) -> TrainerOf:
    """The trainer of an online run, its roles built on the groups and standing where the run goes on."""
    config, seats = inputs.config, {role: groups[inputs.config.pool_of(role)] for role in ROLES}
    for role, group in seats.items():
        group.build(role)
    actor = ActorHandle(seats["actor"])
    inputs.continue_with(actor)
    loop, rows = config.loop, inputs.splits.train
    return partial(
        OnlineDPOTrainer,
        actor=actor,
        rollout=_rollout(inputs, seats),
        reward=RewardHandle(seats["reward"]),
        reference=ReferenceHandle(seats["ref"], settings=config.actor.reference),
        sampler=PairSampler(
            len(rows), config.actor.batch.global_batch_size, loop.seed, not config.actor.data.no_shuffle
        ),
        train_rows=rows,
        pairing=config.actor.pairing,
        samples=_samples(config, inputs.first_step),
        staleness=config.actor.rollout.rollout_staleness,
        earlier=_earlier(inputs),
        num_tokens=inputs.total("num_tokens"),
        plan=Plan(
            inputs.first_step,
            loop.train_iters,
            config.actor.checkpoint.save_interval,
            async_save=config.actor.checkpoint.async_save,
        ),
        watch=Watch.of(config, inputs.continuation),
    )


def _rollout(inputs: Inputs, seats: Mapping[str, Group]) -> RolloutHandle:
    """The rollout with the actor's weights as they are now."""
    actor = inputs.config.actor
    handle = RolloutHandle(
        seats["rollout"],
        seats["actor"],
        publishers=actor.parallel.pipeline_model_parallel_size,
        validate=actor.rollout.md5_validate,
    )
    handle.update_weights(inputs.first_step)
    return handle


def _earlier(inputs: Inputs) -> RolloutBatch | None:
    """Answers for the first step that an earlier run has had already; None where it has none, or others are wanted."""
    settings, found = inputs.config.actor, inputs.continuation
    kept = read_answers(found.folder) if found is not None and settings.rollout.rollout_staleness else None
    if found is None or kept is None:
        return None
    was = {"online_method": found.metadata["online_method"], "n_samples_per_prompt": kept.num_responses}
    now = {
        "online_method": settings.pairing.online_method,
        "n_samples_per_prompt": settings.rollout.n_samples_per_prompt,
    }
    if was != now:
        changed = ", ".join(f"{key} was {was[key]} and is {now[key]}" for key in was if was[key] != now[key])
        logger.warning("step %d is answered anew, by newer weights: %s", inputs.first_step + 1, changed)
        return None
    return kept


def _samples(config: RunConfig, done: int) -> SampleTable:
    tokenizer = load_tokenizer(str(config.actor.data.tokenizer_name_or_path))
    return SampleTable(
        Path(config.loop.output_dir, SAMPLES_FILE), tokenizer.decode, config.actor.rollout.log_samples_interval, done
    )
