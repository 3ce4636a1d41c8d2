"""Retention of checkpoints: the newest few and the best one, which `best.json` names. Works on files only."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, iteration_dir
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors

BEST = "best.json"
_FOLDER = re.compile(r"iter_(\d{7,})")
_REMOVED = ".removed"

logger = logging.getLogger(__name__)


def mark_best(root: Path, content: Mapping[str, Any]) -> None:
    """Record the best checkpoint; the file is replaced atomically.

    Raises:
        WriteError: It cannot be written.
    """
    with write_errors(root / BEST):
        root.mkdir(parents=True, exist_ok=True)
        write_text_atomically(root / BEST, json.dumps(content, indent=2) + "\n")


def saved_iterations(root: Path) -> list[int]:
    """List the iterations of the complete checkpoints in a save folder, the oldest first."""
    matches = [(_FOLDER.fullmatch(path.name), path) for path in root.glob("iter_*")]
    return sorted(int(match[1]) for match, path in matches if match and (path / METADATA).is_file())


def prune(root: Path, newest: int, keep: int, also: Collection[int]) -> list[int]:
    """Delete old checkpoints.

    Args:
        root: The save folder.
        newest: Iteration of the checkpoint just written. Later ones stem from an earlier attempt and are left alone.
        keep: Number of checkpoints to keep, including the newest; at least 1.
        also: Iterations to keep in any case.

    Returns:
        The deleted iterations.
    """
    for remains in root.glob(f"iter_*{_REMOVED}"):
        shutil.rmtree(remains, ignore_errors=True)
    old = [iteration for iteration in saved_iterations(root) if iteration <= newest][: -max(keep, 1)]
    deleted = [iteration for iteration in old if iteration not in also]
    for iteration in deleted:
        folder = iteration_dir(root, iteration)
        # Renamed first, since a partly deleted folder must not look like a checkpoint.
        removed = folder.with_name(folder.name + _REMOVED)
        folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
        logger.info("checkpoint of step %d deleted: keep_last_checkpoints=%d", iteration, keep)
    return deleted
