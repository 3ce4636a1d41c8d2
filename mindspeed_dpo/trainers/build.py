"""Builds a run's trainer from its configuration and trains; a failure is reported in one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mindspeed_dpo.config.estimates.run_summary import plan_lines
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.launch import worker_groups
from mindspeed_dpo.controller.worker_group import WorkerGroup
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.logs import FILE_ONLY, start_logging
from mindspeed_dpo.processes.driver_link import driver_link
from mindspeed_dpo.processes.exit_codes import DONE, FAILED, INTERRUPTED
from mindspeed_dpo.report.background import BackgroundReport
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.trainers.build_offline import offline_trainer
from mindspeed_dpo.trainers.build_online import online_trainer
from mindspeed_dpo.trainers.export.export_result import export_result
from mindspeed_dpo.trainers.facts_for_report import write_run_facts
from mindspeed_dpo.trainers.last_line import last_line
from mindspeed_dpo.trainers.output_lock import OutputInUseError, run_locks
from mindspeed_dpo.trainers.resuming.resume import with_own_checkpoints, with_resumed_output_dir
from mindspeed_dpo.trainers.resuming.resume_report import CONFIG_FILE
from mindspeed_dpo.trainers.run_failures import exit_code_of, failures_logged
from mindspeed_dpo.trainers.run_inputs import RunInputs
from mindspeed_dpo.trainers.start_checks import open_and_check
from mindspeed_dpo.trainers.trackers import open_trackers, run_report
from mindspeed_dpo.weights.hf.hf_assets import ASSETS_FOLDER, copy_assets
from mindspeed_dpo.workers.setup.initial_weights import open_initial_weights

logger = logging.getLogger(__name__)


def train(config: RunConfig) -> int:
    """Train as configured.

    Returns:
        Exit code: 0 when the run is complete, 130 when it was interrupted and saved, 1 when it failed.
    """
    try:
        config = with_resumed_output_dir(with_own_checkpoints(config))
        log = partial(start_logging, config.loop.output_dir, "driver", console_level=logging.INFO)
        with live_status.shown(), run_locks(config), log():
            return exit_code_of(partial(_train_logged, config))
    except (CheckpointError, OutputInUseError, OSError) as error:
        # Before there is a log file, or raised by it; other errors are logged.
        sys.stderr.write(f"error: {error}\n")
        return FAILED


def _train_logged(config: RunConfig) -> int:
    for note in config.notes:
        # The command has printed them.
        logger.info("note: %s", note, extra=FILE_ONLY)
    with live_status.phase("reading data and weights"):
        inputs = open_and_check(config)
    # Only after the checks: a run that cannot be resumed must keep its earlier settings file.
    settings_file = Path(config.loop.output_dir, CONFIG_FILE)
    with write_errors(settings_file):
        settings_file.write_text(inputs.config.as_yaml(), encoding="utf-8")
    for line in plan_lines(inputs.config):
        logger.info("%s", line)
    # A failure is logged before the report is written for the last time, so that it shows it.
    with worker_groups(inputs.config) as groups, run_report(inputs.config) as report, failures_logged():
        return train_on(inputs, groups, report)


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


def _copy_tokenizer_files(config: RunConfig) -> None:
    """Copy config and tokenizer files of the initial weights next to the checkpoints, so that these can be exported."""
    source = open_initial_weights(config.actor)
    assets = source.assets() if source is not None else None
    if assets is not None:
        target = Path(config.actor.checkpoint.save) / ASSETS_FOLDER
        with write_errors(target):
            copy_assets(assets, target)
