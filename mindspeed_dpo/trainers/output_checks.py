"""Checks of everything that a run writes, before a device is allocated: folders, disk space, earlier outputs."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from mindspeed_dpo.config.estimates.memory import checkpoint_bytes
from mindspeed_dpo.config.estimates.run_summary import format_bytes
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import TRACKER, CheckpointError
from mindspeed_dpo.observability.metrics_jsonl import METRICS_FILE
from mindspeed_dpo.storage.write_errors import free_bytes, try_folder, writable_folder_advice, write_errors

OWN_FILES = ("config.yaml", "metrics.jsonl", "logs/driver_0.log")
_CACHE_ROW_BYTES = 32

logger = logging.getLogger(__name__)


def output_folders(run: RunConfig) -> dict[str, Path]:
    """Return every folder that a run writes to by the key that sets it."""
    loop, actor = run.loop, run.actor
    folders = {"output_dir": Path(loop.output_dir), "save": Path(actor.checkpoint.save)}
    if writes_reference_cache(run):
        folders["reference_cache_dir"] = Path(actor.reference.reference_cache_dir)
    for name in loop.external_trackers:
        if local := getattr(loop, f"{name}_save_dir", None):
            folders[f"{name}_save_dir"] = Path(local)
    return folders


def writes_reference_cache(run: RunConfig) -> bool:
    """Return whether the reference's log-probabilities are stored on disk."""
    is_cached = run.actor.reference.reference == "cached" and not run.is_online
    return is_cached and run.ref is not None and not run.ref.checkpoint.random_init


def check_output_is_unused(run: RunConfig) -> None:
    """Check that a run that starts at step 0 does not overwrite another run's outputs.

    Raises:
        CheckpointError: Its folders contain outputs of another run.
    """
    save, metrics = Path(run.actor.checkpoint.save), Path(run.loop.output_dir) / METRICS_FILE
    if (save / TRACKER).is_file():
        raise CheckpointError(
            f"{save} contains the checkpoints of another run; resume that one with resume_from={save}, "
            "choose another output_dir or save, or move them away"
        )
    if metrics.is_file() and metrics.stat().st_size:
        raise CheckpointError(f"{metrics} belongs to another run; choose another output_dir, or move it away")


def check_outputs(run: RunConfig, num_steps: int, num_reference_rows: int) -> None:
    """Check that all folders can be written and that the disk has space for what will be.

    Args:
        run: Settings of the run.
        num_steps: Steps that it does.
        num_reference_rows: Rows of which it stores the reference's log-probabilities.

    Raises:
        WriteError: A folder cannot be created or written.
        ValueError: The disk has no space for one checkpoint, or for the reference cache.
    """
    folders = output_folders(run)
    for key, folder in folders.items():
        try_folder(folder, writable_folder_advice(key))
    _try_own_files(folders["output_dir"])
    _check_space_for_checkpoints(run, folders["save"], num_steps)
    if "reference_cache_dir" in folders:
        needed_bytes = num_reference_rows * _CACHE_ROW_BYTES
        what = "the reference's log-probabilities"
        _check_space(folders["reference_cache_dir"], needed_bytes, what, "reference_cache_dir")


def _try_own_files(output_dir: Path) -> None:
    """Try the files that a resumed run appends to or replaces."""
    for name in OWN_FILES:
        path = output_dir / name
        if path.exists():
            with write_errors(path, writable_folder_advice("output_dir")), path.open("ab"):
                continue


def _check_space_for_checkpoints(run: RunConfig, save: Path, num_steps: int) -> None:
    settings = run.actor.checkpoint
    one = checkpoint_bytes(run.actor, with_reference=run.actor.reference.sync_ref_model)
    _check_space(save, one, "a checkpoint of this run", "save")
    num_written = math.ceil(num_steps / settings.save_interval) if settings.save_interval else 1
    num_retained = num_written
    if settings.keep_last_checkpoints is not None:
        # One more while the newest is written, and the best one.
        num_retained = min(num_written, settings.keep_last_checkpoints + 1 + bool(run.loop.best_metric))
    if (free := free_bytes(save)) < num_retained * one:
        logger.warning(
            "save=%s has %s free, and the %d checkpoints of this run take about %s; set keep_last_checkpoints or free "
            "space",
            *(save, format_bytes(free), num_retained, format_bytes(num_retained * one)),
        )


def _check_space(folder: Path, needed_bytes: int, what: str, key: str) -> None:
    free = free_bytes(folder)
    if free < needed_bytes:
        raise ValueError(
            f"{key}={folder} has {format_bytes(free)} free, and {what} takes about {format_bytes(needed_bytes)}; free "
            f"space there or set {key} to a folder on another disk"
        )
