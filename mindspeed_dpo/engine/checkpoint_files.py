"""Checkpoint folders as files: where they are, whether they are whole, what they say. No tensors, no megatron here.

`<save>/iter_0000010/` holds megatron-core's distributed checkpoint plus `mindspeed_dpo.json`, which says what it is;
`<save>/latest_checkpointed_iteration.txt` names the newest whole one. A checkpoint is written under a temporary name,
renamed when every rank is done, and the tracker is moved last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TRACKER = "latest_checkpointed_iteration.txt"
METADATA = "mindspeed_dpo.json"
FORMAT = 2


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete or does not fit; the message says what to do."""


def iteration_dir(root: Path, iteration: int) -> Path:
    """Folder of one checkpoint."""
    return root / f"iter_{iteration:07d}"


def latest(root: Path) -> Path:
    """The newest whole checkpoint below a save folder.

    Raises:
        CheckpointError: There is none, or the tracker names one that is not whole.
    """
    tracker = root / TRACKER
    if not tracker.is_file():
        raise CheckpointError(
            f"{root} holds no checkpoint: {TRACKER} is missing; give the folder that `save` of that run names"
        )
    text = tracker.read_text().strip()
    if not text.isdigit():
        raise CheckpointError(f"{tracker} should hold an iteration number, it holds {text!r}")
    folder = iteration_dir(root, int(text))
    read_metadata(folder)
    return folder


def read_metadata(folder: Path) -> dict[str, Any]:
    """What `save` wrote about a checkpoint.

    Raises:
        CheckpointError: The folder is not a whole checkpoint of this program.
    """
    missing = [name for name in (METADATA, "metadata.json", "common.pt", ".metadata") if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} is not a whole checkpoint: {', '.join(missing)} missing; use an earlier iteration, "
            "or finetune=true to take only its weights"
        )
    try:
        metadata: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / METADATA} is damaged ({error}); use an earlier iteration") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has format {metadata.get('format')}, this version reads format {FORMAT}")
    damaged = [name for name, size in metadata.get("files", {}).items() if _size(folder / name) != size]
    if damaged:
        raise CheckpointError(
            f"{folder} is damaged: {', '.join(damaged)} missing or not of the size it was written with; use an earlier "
            "iteration"
        )
    return metadata


def begin(root: Path, iteration: int) -> Path:
    """An empty folder to write a checkpoint into; what interrupted saves left is removed, whatever their iteration."""
    for left in root.glob("iter_*.partial"):
        shutil.rmtree(left, ignore_errors=True)
    partial = _partial(root, iteration)
    partial.mkdir(parents=True)
    return partial


def finish(root: Path, iteration: int, metadata: Mapping[str, Any]) -> None:
    """Make what `begin` started the newest checkpoint."""
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
