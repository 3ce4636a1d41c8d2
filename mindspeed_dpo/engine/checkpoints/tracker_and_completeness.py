"""Checkpoint folders: paths, tracker, completeness and metadata. Imports neither torch nor megatron-core.

`<save>/iter_0000010/` holds megatron-core's distributed checkpoint and the metadata `mindspeed_dpo.json`, which has
size and digest of every other file, and a digest of itself.
`<save>/latest_checkpointed_iteration.txt`, the tracker, names the newest complete checkpoint. A checkpoint is written
under a temporary name and renamed once every rank is done; the tracker is updated last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoints.checkpoint_metadata import check_metadata
from mindspeed_dpo.storage.digests import (
    ALGORITHM,
    digest_of,
    is_within,
)
from mindspeed_dpo.storage.folder_replacement import earlier_content
from mindspeed_dpo.untrusted.errors import QuotingError, reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import read_bytes

TRACKER = "latest_checkpointed_iteration.txt"
METADATA = "mindspeed_dpo.json"
FORMAT = 2
RESUME_KEY = "actor_rollout_ref.actor_rollout.resume"
LATEST_WHOLE = "latest_whole"
EARLIER_ARE_COMPLETE = ". Earlier checkpoints are complete"

_MAX_ITERATION_DIGITS = 19


class CheckpointError(QuotingError):
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
        raise CheckpointError(
            f"{tracker} must contain an iteration number, got {content!r}; give the folder of one iteration"
        )
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
            f"{folder} is not a complete checkpoint: {', '.join(missing)} missing; {recovery_advice(folder)}, "
            f"or finetune=true to load only the weights{earlier_content(folder)}"
        )
    with reraised_as(CheckpointError, recovery_advice(folder)):
        description = read_json_object(folder / METADATA)
        metadata = description.plain()
        _check_own_digest(folder, metadata)
        version = description.integer("format", None)
        if version != FORMAT:
            raise CheckpointError(f"{folder} has format {version}, this version reads format {FORMAT}")
        check_metadata(description)
        sizes = description.section("files", JsonObject({}, str(folder)))
        damaged = [name for name, size in sizes.items() if not is_within(name) or _size(folder / name) != size]
    if damaged:
        raise CheckpointError(
            f"{folder} is damaged: {', '.join(damaged)} missing or of another size than when written; "
            f"{recovery_advice(folder)}"
        )
    return metadata


def recovery_advice(folder: Path) -> str:
    """Return what to do about a damaged checkpoint, with the overrides of the command line."""
    return (
        f"resume the newest undamaged one with {RESUME_KEY}_from={folder.parent} {RESUME_KEY}={LATEST_WHOLE}, or use "
        "an earlier iteration"
    )


def metadata_digest(content: Mapping[str, Any]) -> str:
    """Return the digest of a metadata file's content without this digest."""
    return digest_of(json.dumps({key: value for key, value in content.items() if key != ALGORITHM}).encode())


def _check_own_digest(folder: Path, metadata: dict[str, Any]) -> None:
    expected = metadata.get(ALGORITHM)
    if expected is not None and (actual := metadata_digest(metadata)) != expected:
        raise CheckpointError(
            f"{folder / METADATA} is damaged: it was written with the {ALGORITHM} digest {expected} and now has "
            f"{actual}; {recovery_advice(folder)}"
        )


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
