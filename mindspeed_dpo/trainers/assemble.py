"""From a checked configuration to a finished run: open, connect, build, train, and say what went wrong in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.controller.cluster import ClusterError, cluster
from mindspeed_dpo.controller.group import WorkerFailure, WorkerGroup
from mindspeed_dpo.controller.handles import ActorHandle, Group, ReferenceHandle
from mindspeed_dpo.controller.pools import Pool
from mindspeed_dpo.data.dataset import PreferenceDataset, Splits
from mindspeed_dpo.data.sampler import PairSampler
from mindspeed_dpo.device import find_accelerator
from mindspeed_dpo.models.hf_config import describe_differences, model_config_from_hf, read_hf_config
from mindspeed_dpo.models.weights.assets import FOLDER, copy_assets
from mindspeed_dpo.observability.jsonl import MetricsFile
from mindspeed_dpo.observability.logs import start_logging
from mindspeed_dpo.observability.progress import ProgressLine
from mindspeed_dpo.observability.tensorboard import TensorBoard
from mindspeed_dpo.observability.tracker import Trackers
from mindspeed_dpo.trainers.continuation import Continuation, continued_in_place, find_continuation
from mindspeed_dpo.trainers.offline_dpo import OfflineDPOTrainer, Plan
from mindspeed_dpo.trainers.references import cached_reference
from mindspeed_dpo.workers.roles import Reference
from mindspeed_dpo.workers.settings import learning_rate_of, objective_of
from mindspeed_dpo.workers.sources import open_dataset, open_initial_weights

logger = logging.getLogger(__name__)

DONE, FAILED, INTERRUPTED = 0, 1, 130


def run(config: RunConfig) -> int:
    """Train as configured.

    Returns:
        Exit code: 0 when the run is complete, 130 when it was asked to stop and saved, 1 when it failed.
    """
    config = continued_in_place(config)
    output_dir = Path(config.loop.output_dir)
    with start_logging(output_dir, "driver", console_level=logging.INFO):
        (output_dir / "config.yaml").write_text(config.as_yaml(), encoding="utf-8")
        try:
            return _train(config, open_inputs(config))
        except (ClusterError, WorkerFailure, ValueError, OSError) as error:
            logger.error("%s", error)
            logger.debug("the failure in full", exc_info=True)
            return FAILED


@dataclass(frozen=True)
class Inputs:
    """What a run reads, opened and checked on the driver before any device is taken.

    Attributes:
        dataset: All pairs that are fit for training or evaluation.
        splits: Which of them are for what.
        continuation: Where the run goes on from, if it does.
    """

    dataset: PreferenceDataset
    splits: Splits
    continuation: Continuation | None


def open_inputs(config: RunConfig) -> Inputs:
    """Open data, weights and checkpoint and see that they fit the configuration.

    Raises:
        ValueError: Something does not fit.
        OSError: Something cannot be read.
    """
    objective_of(config.actor)
    learning_rate_of(config.actor, config.loop.train_iters)
    dataset = open_dataset(config.actor)
    logger.info("%s: %s", config.actor.data.data_path, dataset.counts.sentence())
    for role in (config.actor, config.ref):
        if role is not None:
            check_weights(role)
    continuation = find_continuation(config, len(dataset))
    return Inputs(dataset, dataset.splits(config.actor.data.split), continuation)


def check_weights(role: RoleConfig) -> None:
    """See that the weights a role loads are those of its model.

    Raises:
        ValueError: A tensor is missing or has another shape, or the Hugging Face config beside the weights says
            something else than the model section about what they compute.
    """
    source = open_initial_weights(role)
    if source is None:
        return
    source.check(role.model)
    assets = source.assets()
    if assets is None or not (assets / "config.json").is_file():
        return
    differences = describe_differences(role.model, model_config_from_hf(read_hf_config(assets)))
    if differences:
        raise ValueError(f"{source.path} holds another model than the configuration: {'; '.join(differences)}")


def _train(config: RunConfig, inputs: Inputs) -> int:
    accelerator = find_accelerator(config.loop.device)
    with ExitStack() as stack:
        stack.enter_context(cluster(config.loop.ray_address, accelerator, config.pools))
        groups = {name: stack.enter_context(_group(config, name)) for name in config.pools}
        return train_on(config, inputs, groups)


def train_on(config: RunConfig, inputs: Inputs, groups: Mapping[str, Group]) -> int:
    """Train on processes that have joined: by pool name, at least `actor_rollout`.

    Returns:
        Exit code, as `run`.
    """
    actor_group = groups["actor_rollout"]
    actor_group.build("actor")
    actor = ActorHandle(actor_group)
    # Before the actor takes up an earlier run's weights: it may be its own reference.
    reference = _reference(config, inputs, actor, groups.get("ref", actor_group))
    if inputs.continuation is not None:
        actor.load(str(inputs.continuation.folder), inputs.continuation.optimizer, inputs.continuation.rng)
    _carry_assets(config)
    with _trackers(config, inputs) as trackers:
        done = _trainer(config, inputs, actor, reference, trackers).fit()
    logger.info("done: everything of this run lies in %s", config.loop.output_dir)
    return DONE if done >= config.loop.train_iters else INTERRUPTED


@contextmanager
def _group(config: RunConfig, pool_name: str) -> Iterator[WorkerGroup]:
    """The processes of a pool, ended and their devices given back at the end."""
    pool = Pool(pool_name, config.pools[pool_name], find_accelerator(config.loop.device))
    try:
        group = WorkerGroup(config, pool)
        try:
            yield group
        finally:
            group.stop()
    finally:
        pool.release()


def _reference(config: RunConfig, inputs: Inputs, actor: ActorHandle, group: Group) -> Reference:
    live = ReferenceHandle(group)
    if config.actor.reference.reference == "live":
        group.build("ref")
        return live
    return cached_reference(config, len(inputs.dataset), actor, group, live)


def _carry_assets(config: RunConfig) -> None:
    """Put config and tokenizer files of the initial weights beside the checkpoints, so that these can be exported."""
    source = open_initial_weights(config.actor)
    assets = source.assets() if source is not None else None
    if assets is not None:
        copy_assets(assets, Path(config.actor.checkpoint.save) / FOLDER)


@contextmanager
def _trackers(config: RunConfig, inputs: Inputs) -> Iterator[Trackers]:
    output_dir, done = Path(config.loop.output_dir), _first_step(inputs)
    trackers = Trackers(
        [
            MetricsFile(output_dir / "metrics.jsonl", completed_steps=done),
            *([TensorBoard(output_dir / "tensorboard", completed_steps=done)] if config.loop.tensorboard else []),
            ProgressLine(config.loop.train_iters, completed_steps=done, interval=config.loop.log_interval),
        ]
    )
    try:
        yield trackers
    finally:
        trackers.close()


def _trainer(
    config: RunConfig, inputs: Inputs, actor: ActorHandle, reference: Reference, trackers: Trackers
) -> OfflineDPOTrainer:
    loop, batch = config.loop, config.actor.batch
    train_rows = inputs.splits.train
    eval_rows = inputs.splits.valid[: loop.eval_iters * batch.global_batch_size if loop.eval_interval else 0]
    lengths = inputs.dataset.lengths().astype(np.int64)
    return OfflineDPOTrainer(
        actor=actor,
        reference=reference,
        sampler=PairSampler(len(train_rows), batch.global_batch_size, loop.seed, not config.actor.data.no_shuffle),
        train_rows=train_rows,
        eval_rows=eval_rows,
        row_tokens=2 * lengths[:, 0] + lengths[:, 1] + lengths[:, 2],
        plan=Plan(_first_step(inputs), loop.train_iters, config.actor.checkpoint.save_interval, loop.eval_interval),
        tracker=trackers,
    )


def _first_step(inputs: Inputs) -> int:
    return 0 if inputs.continuation is None else inputs.continuation.iteration
