"""From a checked configuration to a finished run: connect, build, train, and say what went wrong in one line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mindspeed_dpo.config.estimates.summary import plan_lines
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.cluster import ClusterError, cluster
from mindspeed_dpo.controller.failures import WorkerFailure
from mindspeed_dpo.controller.pools import Pool
from mindspeed_dpo.controller.role_groups import Group, WeightsMismatch
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.device import Accelerator, find_accelerator
from mindspeed_dpo.engine.checkpoint_files import CheckpointError
from mindspeed_dpo.observability.external import Tracked, begin
from mindspeed_dpo.observability.jsonl import MetricsFile
from mindspeed_dpo.observability.logs import start_logging
from mindspeed_dpo.observability.progress import ProgressLine
from mindspeed_dpo.observability.tensorboard import TensorBoard
from mindspeed_dpo.observability.tracker import Trackers
from mindspeed_dpo.trainers.build_offline import offline_trainer
from mindspeed_dpo.trainers.build_online import online_trainer
from mindspeed_dpo.trainers.loop import TrainerOf
from mindspeed_dpo.trainers.resume import METRICS_FILE, continued_in_place
from mindspeed_dpo.trainers.run_inputs import Inputs, open_inputs
from mindspeed_dpo.weights.assets import FOLDER, copy_assets
from mindspeed_dpo.workers.setup.sources import open_initial_weights

logger = logging.getLogger(__name__)

DONE, FAILED, INTERRUPTED = 0, 1, 130


def run(config: RunConfig) -> int:
    """Train as configured.

    Returns:
        Exit code: 0 when the run is complete, 130 when it was asked to stop and saved, 1 when it failed.
    """
    try:
        config = continued_in_place(config)
        with start_logging(config.loop.output_dir, "driver", console_level=logging.INFO):
            return _run_logged(config)
    except CheckpointError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    except OSError as error:
        # Raised by the log file itself: what happens later is logged.
        sys.stderr.write(f"error: output_dir={config.loop.output_dir} cannot be written ({error}); choose another\n")
        return FAILED


def _run_logged(config: RunConfig) -> int:
    try:
        inputs = open_inputs(config)
        # Not before: a run that cannot be resumed must keep the settings it had.
        Path(config.loop.output_dir, "config.yaml").write_text(inputs.config.as_yaml(), encoding="utf-8")
        for line in plan_lines(inputs.config):
            logger.info("%s", line)
        return _train(inputs)
    except KeyboardInterrupt:
        logger.warning("interrupted outside a step; what was saved before is whole")
        return INTERRUPTED
    except (ClusterError, WorkerFailure, WeightsMismatch, ValueError, OSError) as error:
        logger.error("%s", error)
        logger.debug("the failure in full", exc_info=True)
        return FAILED


def _train(inputs: Inputs) -> int:
    with placed_groups(inputs.config) as groups:
        return train_on(inputs, groups)


@contextmanager
def placed_groups(config: RunConfig) -> Iterator[dict[str, WorkerGroup]]:
    """The processes of a run, by pool name, on the cluster it names; ended, and their devices given back, at the end.

    Raises:
        ClusterError: The cluster is not there, or has too few devices.
        WorkerFailure: A process failed.
    """
    with ExitStack() as stack:
        stack.enter_context(cluster(config.loop.ray_address, _placed(config), config.pools))
        watched: list[WorkerGroup] = []
        yield {name: stack.enter_context(_group(config, name, watched)) for name in config.pools}


def train_on(inputs: Inputs, groups: Mapping[str, Group]) -> int:
    """Train on processes that have joined: by pool name, at least `actor_rollout`.

    Returns:
        Exit code, as `run`.
    """
    config = inputs.config
    prepare: Callable[..., TrainerOf] = online_trainer if config.is_online else offline_trainer
    trainer_of = prepare(inputs, groups)
    _carry_assets(config)
    # Not before: the time of a step counts from here.
    with _trackers(inputs) as trackers:
        trainer = trainer_of(tracker=trackers)
        done = trainer.fit()
    logger.info("done: everything of this run lies in %s", config.loop.output_dir)
    return DONE if trainer.is_complete(done) else INTERRUPTED


def _placed(config: RunConfig) -> Accelerator:
    return find_accelerator(config.loop.device).placed_by(config.loop.ray_resource)


@contextmanager
def _group(config: RunConfig, pool_name: str, watched: list[WorkerGroup]) -> Iterator[WorkerGroup]:
    """The processes of a pool, ended and their devices given back at the end; all groups watch each other."""
    pool = Pool(pool_name, config.pools[pool_name], _placed(config))
    try:
        group = WorkerGroup(config, pool, watched)
        try:
            yield group
        finally:
            group.stop()
    finally:
        pool.release()


def _carry_assets(config: RunConfig) -> None:
    """Put config and tokenizer files of the initial weights beside the checkpoints, so that these can be exported."""
    source = open_initial_weights(config.actor)
    assets = source.assets() if source is not None else None
    if assets is not None:
        copy_assets(assets, Path(config.actor.checkpoint.save) / FOLDER)


def tracked_by(name: str, config: RunConfig) -> Tracked:
    """What a tracker is told of the run."""
    loop, settings = config.loop, config.as_tree()
    if name != "mlflow":
        project, run_name, folder = (getattr(loop, f"{name}_{what}") for what in ("project", "exp_name", "save_dir"))
        return Tracked(project, run_name, folder, settings)
    # MLflow's own default would be a file in the working folder.
    own = "" if "MLFLOW_TRACKING_URI" in os.environ else f"sqlite:///{os.path.abspath(loop.output_dir)}/mlflow.db"
    place = own if loop.mlflow_tracking_uri is None else loop.mlflow_tracking_uri
    return Tracked(str(loop.mlflow_experiment), str(loop.mlflow_run_name), place, settings)


@contextmanager
def _trackers(inputs: Inputs) -> Iterator[Trackers]:
    config = inputs.config
    output_dir, done = Path(config.loop.output_dir), inputs.first_step
    trackers = Trackers(
        [
            *(begin(name, tracked_by(name, config), output_dir, done) for name in config.loop.external_trackers),
            MetricsFile(output_dir / METRICS_FILE, completed_steps=done),
            *([TensorBoard(output_dir / "tensorboard", completed_steps=done)] if config.loop.tensorboard else []),
            ProgressLine(
                config.loop.train_iters, completed_steps=done, interval=config.loop.log_interval, legacy_keys=True
            ),
        ]
    )
    try:
        yield trackers
    finally:
        trackers.close()
