"""Checkpoint folders: paths, completeness and metadata. Imports neither torch nor megatron-core.

`<save>/iter_0000010/` holds megatron-core's distributed checkpoint and the metadata `mindspeed_dpo.json`.
`<save>/latest_checkpointed_iteration.txt`, the tracker, names the newest complete checkpoint. A checkpoint is written
under a temporary name and renamed once every rank is done; the tracker is updated last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoint_metadata import check_metadata
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import is_file_name, read_bytes

TRACKER = "latest_checkpointed_iteration.txt"
METADATA = "mindspeed_dpo.json"
FORMAT = 2
_MAX_ITERATION_DIGITS = 19


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or incompatible; the message says what to do."""


def iteration_dir(root: Path, iteration: int) -> Path:
    """Return the folder of the checkpoint of an iteration."""
    return root / f"iter_{iteration:07d}"


def latest(root: Path) -> Path:
    """Return the newest complete checkpoint in a save folder.

    Raises:
        CheckpointError: There is none, or the one that the tracker names is incomplete.
    """
    tracker = root / TRACKER
    if not tracker.is_file():
        raise CheckpointError(f"{root} holds no checkpoint: {TRACKER} is missing; give the `save` folder of a run")
    iteration = read_tracker(tracker)
    if iteration is None:
        content = read_bytes(tracker)[:40].decode("utf-8", "backslashreplace").strip()
        raise CheckpointError(f"{tracker} must contain an iteration number, got {content!r}")
    folder = iteration_dir(root, iteration)
    read_metadata(folder)
    return folder


def read_tracker(tracker: Path) -> int | None:
    """Return the iteration that a tracker names, or None where it does not hold a number."""
    content = read_bytes(tracker).strip()
    return int(content) if content.isdigit() and len(content) < _MAX_ITERATION_DIGITS else None


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read the metadata of a checkpoint after checking that all its files are present.

    Raises:
        CheckpointError: The folder is not a complete checkpoint of this package.
    """
    missing = [name for name in (METADATA, "metadata.json", "common.pt", ".metadata") if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint: {', '.join(missing)} missing; use an earlier iteration, "
            "or finetune=true to load only the weights"
        )
    with reraised_as(CheckpointError, "use an earlier iteration"):
        description = read_json_object(folder / METADATA)
        version = description.integer("format", None)
        if version != FORMAT:
            raise CheckpointError(f"{folder} has format {version}, this version reads format {FORMAT}")
        check_metadata(description)
        sizes = description.section("files", JsonObject({}, str(folder)))
        damaged = [name for name, size in sizes.items() if not is_file_name(name) or _size(folder / name) != size]
    if damaged:
        raise CheckpointError(
            f"{folder} is damaged: {', '.join(damaged)} missing or of another size than when written; use an earlier "
            "iteration"
        )
    return description.plain()


def begin(root: Path, iteration: int) -> Path:
    """Create an empty folder for a checkpoint and remove the remains of interrupted saves of any iteration."""
    for remains in root.glob("iter_*.partial"):
        shutil.rmtree(remains, ignore_errors=True)
    partial = _partial(root, iteration)
    partial.mkdir(parents=True)
    return partial


def finish(root: Path, iteration: int, metadata: Mapping[str, Any]) -> None:
    """Turn the folder created by `begin` into the newest checkpoint."""
    partial, final = _partial(root, iteration), iteration_dir(root, iteration)
    sizes = {path.name: _size(path) for path in sorted(partial.iterdir())}
    (partial / METADATA).write_text(json.dumps({"format": FORMAT, **metadata, "files": sizes}, indent=2) + "\n")
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)
    temporary = root / f"{TRACKER}.partial"
    temporary.write_text(str(iteration))
    os.replace(temporary, root / TRACKER)


def _partial(root: Path, iteration: int) -> Path:
    folder = iteration_dir(root, iteration)
    return folder.with_name(f"{folder.name}.partial")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
