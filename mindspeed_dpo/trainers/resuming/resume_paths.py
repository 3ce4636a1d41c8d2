"""Paths of the checkpoint to resume from: a user gives an output folder, a folder of checkpoints, or one checkpoint."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoints.checkpoint_commit import restore_replaced
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import latest_whole
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    METADATA,
    TRACKER,
    CheckpointError,
    iteration_dir,
    latest,
    read_metadata,
    read_tracker,
)
from mindspeed_dpo.storage.folder_replacement import REPLACED
from mindspeed_dpo.storage.process_lock import LockHeldError, ProcessLock
from mindspeed_dpo.trainers.output_lock import RUN_LOCK
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.yaml_text import read_yaml_mapping

DEFAULT_SAVE = "checkpoints"


def newest_checkpoint(path: Path, verify: bool = False) -> Path:
    """Return the newest checkpoint of an output folder or a folder of checkpoints, or the given checkpoint.

    Args:
        path: One of these.
        verify: Verify all files, and return an earlier one where the newest is damaged.
    """
    save, last = _iteration_of(path)
    _restore_replaced(save)
    if verify:
        return latest_whole(save, last)
    if (path / METADATA).is_file():
        read_metadata(path)
        return path
    return latest(_save_of(path))


def _restore_replaced(save: Path) -> None:
    """Put back the checkpoint that a killed run was about to replace, unless a run is writing there."""
    if any(save.glob(f"iter_*{REPLACED}")):
        # Where it cannot be renamed, the absent checkpoint is reported with the name of its earlier content.
        with suppress(LockHeldError, OSError), ProcessLock(save / RUN_LOCK):
            restore_replaced(save)


def _iteration_of(path: Path) -> tuple[Path, int | None]:
    """Return the folder of checkpoints of a path, and the iteration if the path is that of one checkpoint."""
    number = path.name.removeprefix("iter_")
    if path.name.startswith("iter_") and number.isdigit():
        return path.parent, int(number)
    return _save_of(path), None


def save_and_output_dir(path: Path, verify: bool) -> tuple[Path, Path | None]:
    """Return the folder of checkpoints of a path, and the output folder that one of them names."""
    if not verify:
        folder = newest_checkpoint(path)
        return folder.parent, _recorded_output_dir(folder)
    save, _ = _iteration_of(path)
    for folder in sorted(save.glob("iter_*"), reverse=True):
        try:
            return save, _recorded_output_dir(folder)
        except CheckpointError:
            continue  # reported when the checkpoint is chosen
    return save, None


def _recorded_output_dir(folder: Path) -> Path | None:
    recorded = read_metadata(folder).get("output_dir")
    return Path(recorded) if recorded else None


def _save_of(path: Path) -> Path:
    """Return the folder of checkpoints: the path itself, or that of the run whose output folder it is."""
    if (path / TRACKER).is_file():
        return path
    if (path / DEFAULT_SAVE).is_dir():
        return path / DEFAULT_SAVE
    if (path / "config.yaml").is_file():
        with reraised_as(CheckpointError, "give the folder of its checkpoints"):
            written: Any = read_yaml_mapping(path / "config.yaml")
        for section in ("actor_rollout_ref", "actor_rollout"):
            written = written.get(section)
            if not isinstance(written, dict):
                raise CheckpointError(f"{path / 'config.yaml'} has no {section}; give the folder of its checkpoints")
        if not isinstance(written.get("save"), str):
            raise CheckpointError(f"{path / 'config.yaml'} has no save; give the folder of its checkpoints")
        return Path(written["save"])
    return path


def is_training_checkpoint(path: Path) -> bool:
    """Return whether a path has a training checkpoint, complete or not, rather than rank files of a converter."""
    folder = path
    iteration = read_tracker(path / TRACKER) if (path / TRACKER).is_file() else None
    if iteration is not None:
        folder = iteration_dir(path, iteration)
    return (folder / METADATA).is_file() or any(folder.glob("*.distcp"))
