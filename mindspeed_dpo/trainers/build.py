"""Builds a run's trainer from its configuration and trains; a failure is reported in one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.failures import WorkerFailure
from mindspeed_dpo.controller.launch import worker_groups
from mindspeed_dpo.controller.ray_connection import ClusterError
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup, RewardGroup, RolloutGroup, WeightsMismatch
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.data.datasets.train_eval import TrainEvalPairs, TrainEvalPrompts
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import read_rollouts
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.logs import FILE_ONLY, start_logging
from mindspeed_dpo.processes.driver_link import LOSS_REPORT_S, driver_link
from mindspeed_dpo.report.background import BackgroundReport
from mindspeed_dpo.report.sample_files import SAMPLES_FILE
from mindspeed_dpo.storage.user_paths import real_path
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.evaluated_pairs import EvaluatedPairs
from mindspeed_dpo.trainers.export.export_result import export_result
from mindspeed_dpo.trainers.facts_for_report import write_run_facts
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer
from mindspeed_dpo.trainers.online_dpo import OnlineDPOTrainer
from mindspeed_dpo.trainers.online_evaluation import OnlineEvaluation
from mindspeed_dpo.trainers.output_checks import output_folders
from mindspeed_dpo.trainers.output_lock import OutputInUseError, run_locks
from mindspeed_dpo.trainers.reference_logprobs import NoReference, ReferenceSource, cached_reference
from mindspeed_dpo.trainers.reference_responses import reference_responses
from mindspeed_dpo.trainers.resuming.resume import with_own_checkpoints, with_resumed_output_dir
from mindspeed_dpo.trainers.resuming.resume_report import CONFIG_FILE
from mindspeed_dpo.trainers.row_selection import evaluation_rows, pair_sampler, rows_to_read
from mindspeed_dpo.trainers.run_inputs import RunInputs
from mindspeed_dpo.trainers.sample_table import SampleTable
from mindspeed_dpo.trainers.start_checks import open_and_check
from mindspeed_dpo.trainers.trackers import open_trackers, run_report
from mindspeed_dpo.weights.hf.hf_assets import ASSETS_FOLDER, copy_assets
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights

logger = logging.getLogger(__name__)

DONE, FAILED, INTERRUPTED = 0, 1, 130

ONLINE_ROLES = ("actor", "rollout", "ref", "reward")
"""In the order in which they are built: a rollout may use the weights of the actor in its process."""


def train(config: RunConfig) -> int:
    """Train as configured.

    Returns:
        Exit code: 0 when the run is complete, 130 when it was interrupted and saved, 1 when it failed.
    """
    try:
        config = with_resumed_output_dir(with_own_checkpoints(config))
        log = partial(start_logging, config.loop.output_dir, "driver", console_level=logging.INFO)
        with live_status.shown(), run_locks(config), log():
            return _train_logged(config)
    except (CheckpointError, OutputInUseError, OSError) as error:
        # Before there is a log file, or raised by it; other errors are logged.
        sys.stderr.write(f"error: {error}\n")
        return FAILED


def _train_logged(config: RunConfig) -> int:
    for note in config.notes:
        # The command has printed them.
        logger.info("note: %s", note, extra=FILE_ONLY)
    try:
        with _failures_logged():
            with live_status.phase("reading data and weights"):
                inputs = open_and_check(config)
            # Only after the checks: a run that cannot be resumed must keep its earlier settings file.
            settings_file = Path(config.loop.output_dir, CONFIG_FILE)
            with write_errors(settings_file):
                settings_file.write_text(inputs.config.as_yaml(), encoding="utf-8")
            for line in plan_lines(inputs.config):
                logger.info("%s", line)
            # A failure is logged before the report is written for the last time, so that it shows it.
            with worker_groups(inputs.config) as groups, run_report(inputs.config) as report, _failures_logged():
                return train_on(inputs, groups, report)
    except _LoggedFailure as failure:
        return failure.code


class _LoggedFailure(Exception):
    """The end of a run by a failure, or by the user, that has been logged."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def _failures_logged() -> Iterator[None]:
    """Log what ends a run.

    Raises:
        _LoggedFailure: In place of it, with the exit code.
    """
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("interrupted outside a step; checkpoints saved earlier are complete")
        raise _LoggedFailure(INTERRUPTED) from None
    except (ClusterError, WorkerFailure, WeightsMismatch, ValueError, OSError) as error:
        # A part of Ray that has ended takes others with it, whose errors say nothing of the cause.
        ended = isinstance(error, WorkerFailure) and driver_link.loss(LOSS_REPORT_S)
        logger.error("%s", ended or error)
        logger.debug("traceback of the failure", exc_info=True)
        raise _LoggedFailure(FAILED) from error


def train_on(inputs: RunInputs, groups: Mapping[str, WorkerGroup], report: BackgroundReport | None = None) -> int:
    """Train on worker groups that have joined.

    Args:
        inputs: What the run reads, opened and checked.
        groups: By pool name, at least `actor_rollout`.
        report: Writes the page of the run while it trains, and once it has its result.

    Returns:
        Exit code, 0 or 130 as `train` returns it.
    """
    config = inputs.config
    make_trainer = online_trainer(inputs, groups) if config.is_online else offline_trainer(inputs, groups)
    _copy_tokenizer_files(config)
    if config.loop.report:
        write_run_facts(inputs)
    # Start the trackers' clocks only after setup.
    with open_trackers(config, inputs.first_step, report) as tracker:
        trainer = make_trainer(tracker=tracker)
        num_done = trainer.fit()
    is_complete = trainer.is_complete(num_done)
    with live_status.phase("writing the result"):
        exported = export_result(config, num_done) if is_complete else None
    logger.info("%s", last_line(config, num_done, is_complete, exported))
    code = DONE if is_complete else INTERRUPTED
    if report is not None:
        report.close()
    driver_link.announce_result(code)
    return code


def last_line(config: RunConfig, num_done: int, is_complete: bool, exported: Path | None = None) -> str:
    """Return the last line of a run: how it ended and where its outputs are; `exported` is its folder for others."""
    names = {"save": "checkpoints", "reference_cache_dir": "reference log-probabilities"}
    output_dir = Path(config.loop.output_dir)
    elsewhere = {
        key: folder
        for key, folder in output_folders(config).items()
        if not real_path(folder).is_relative_to(real_path(output_dir))
    }
    results = [f"the {'adapter' if config.actor.adapters.is_on else 'model'} is in {exported}"] if exported else []
    places = [f"{names.get(key, key.removesuffix('_save_dir'))} in {folder}" for key, folder in elsewhere.items()]
    outputs = f"{'all other' if places else 'all'} outputs of this run are in {output_dir}"
    state = "done" if is_complete else f"interrupted after step {num_done}; resume with resume_from={output_dir}"
    first = [f"{state}: {outputs}"] if is_complete else [state, outputs]
    return "; ".join([*first, *places, *results])


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
    loop, lengths = config.loop, dataset.lengths().astype(np.int64)
    return partial(
        OfflineDPOTrainer,
        actor=actor,
        reference=reference,
        sampler=pair_sampler(inputs),
        train_rows=inputs.splits.train,
        eval_sets=eval_sets,
        row_tokens=lengths[:, 0] * (lengths[:, 1:] > 0).sum(1) + lengths[:, 1:].sum(1),
        evaluated_pairs=EvaluatedPairs.of(config, dataset),
        schedule=_schedule(inputs, loop.eval_interval, loop.eval_at_start),
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
        _follow(config, actor, live, groups["actor_rollout"], group)
        return live
    needed = rows_to_read(inputs, eval_sets)
    return cached_reference(config, len(dataset), actor, group, live, dataset.eval_rows, needed)


def _follow(
    config: RunConfig, actor: ActorGroup, reference: ReferenceGroup, trained: WorkerGroup, group: WorkerGroup
) -> None:
    """Connect a reference that is updated, and on processes of its own, with the actor."""
    if config.actor.reference.sync_ref_model and group is not trained:
        reference.follow(trained, config.actor.parallel.pipeline_model_parallel_size)
        actor.save_with(reference)


def online_trainer(inputs: RunInputs, groups: Mapping[str, WorkerGroup]) -> partial[OnlineDPOTrainer]:
    """Build the roles of an online run and load its checkpoint; the trainer then needs only a `tracker`."""
    config, group_of = inputs.config, {role: groups[inputs.config.pool_of(role)] for role in ONLINE_ROLES}
    for role, group in group_of.items():
        group.build(role)
    actor = ActorGroup(group_of["actor"])
    reference = ReferenceGroup(group_of["ref"], settings=config.actor.reference)
    _follow(config, actor, reference, group_of["actor"], group_of["ref"])
    inputs.load_checkpoint(actor)
    loop, rollout, reward = config.loop, _rollout(inputs, group_of), RewardGroup(group_of["reward"])
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
        schedule=_schedule(inputs, loop.eval_interval, loop.eval_at_start),
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


def _schedule(inputs: RunInputs, eval_interval: int | None = None, eval_at_start: bool = False) -> LoopSchedule:
    checkpoint = inputs.config.actor.checkpoint
    return LoopSchedule(
        inputs.first_step,
        inputs.config.loop.train_iters,
        checkpoint.save_interval,
        eval_interval,
        eval_at_start,
        checkpoint.async_save,
    )


def _copy_tokenizer_files(config: RunConfig) -> None:
    """Copy config and tokenizer files of the initial weights next to the checkpoints, so that these can be exported."""
    source = open_initial_weights(config.actor)
    assets = source.assets() if source is not None else None
    if assets is not None:
        target = Path(config.actor.checkpoint.save) / ASSETS_FOLDER
        with write_errors(target):
            copy_assets(assets, target)
