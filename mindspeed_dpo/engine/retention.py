"""Which checkpoints of a folder stay: the newest few and the best, which `best.json` names. Files only."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoint_files import METADATA, iteration_dir

BEST = "best.json"
_FOLDER = re.compile(r"iter_(\d{7,})")
_REMOVED = ".removed"

logger = logging.getLogger(__name__)


def mark_best(root: Path, content: Mapping[str, Any]) -> None:
    """Say which checkpoint is the best; the file is whole at any time."""
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / f"{BEST}.partial"
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, root / BEST)


def saved_iterations(root: Path) -> list[int]:
    """Iterations of the whole checkpoints below a folder, the oldest first."""
    found = [(_FOLDER.fullmatch(path.name), path) for path in root.glob("iter_*")]
    return sorted(int(match[1]) for match, path in found if match and (path / METADATA).is_file())


def prune(root: Path, newest: int, keep: int, also: Collection[int]) -> list[int]:
    """Delete old checkpoints.

    Args:
        root: The folder of checkpoints.
        newest: Iteration of the one just written. What is newer is of an earlier life of the run, and left alone.
        keep: How many stay, the newest included; at least 1.
        also: Iterations that stay in any case.

    Returns:
        The iterations that were deleted.
    """
    for left in root.glob(f"iter_*{_REMOVED}"):
        shutil.rmtree(left, ignore_errors=True)
    old = [iteration for iteration in saved_iterations(root) if iteration <= newest][: -max(keep, 1)]
    gone = [iteration for iteration in old if iteration not in also]
    for iteration in gone:
        folder = iteration_dir(root, iteration)
        # At once out of the way: half a folder must not look like a checkpoint.
        removed = folder.with_name(folder.name + _REMOVED)
        folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)
        logger.info("checkpoint of step %d deleted: keep_last_checkpoints=%d", iteration, keep)
    return gone
