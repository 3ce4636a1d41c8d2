"""Commit of a checkpoint folder: created under a temporary name, renamed when complete, then named by the tracker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    FORMAT,
    METADATA,
    TRACKER,
    iteration_dir,
    metadata_digest,
)
from mindspeed_dpo.storage.atomic_write import write_text_atomically, write_text_durably
from mindspeed_dpo.storage.digests import (
    ALGORITHM,
    FileDigest,
    file_digest,
)
from mindspeed_dpo.storage.folder_replacement import REPLACED, replace_folder, restore_folder


def begin(root: Path, iteration: int) -> Path:
    """Create an empty folder for a checkpoint and remove the remains of interrupted saves of any iteration."""
    restore_replaced(root)
    for remains in root.glob("iter_*.partial"):
        shutil.rmtree(remains, ignore_errors=True)
    partial = _partial(root, iteration)
    partial.mkdir(parents=True)
    return partial


def restore_replaced(root: Path) -> None:
    """Put back the checkpoints that a killed run was about to replace; only the process that saves here may do so."""
    for aside in root.glob(f"iter_*{REPLACED}"):
        restore_folder(aside.with_name(aside.name.removesuffix(REPLACED)), aside)


def finish(
    root: Path, iteration: int, metadata: Mapping[str, Any], digests: Mapping[str, FileDigest] | None = None
) -> None:
    """Turn the folder created by `begin` into the newest checkpoint.

    Args:
        root: The save folder.
        iteration: Iteration of the checkpoint.
        metadata: JSON values.
        digests: Digests by name that were computed as the files were written; those of other files, megatron-core's
            small ones, are computed here.

    Raises:
        OSError: A file cannot be written.
    """
    partial, final = _partial(root, iteration), iteration_dir(root, iteration)
    content = {"format": FORMAT, **metadata, **_described_files(partial, digests or {})}
    content[ALGORITHM] = metadata_digest(content)
    write_text_durably(partial / METADATA, json.dumps(content, indent=2) + "\n")
    replace_folder(partial, final, aside=final.with_name(f"{final.name}{REPLACED}"))
    write_text_atomically(root / TRACKER, str(iteration))


def discard(partial: Path) -> None:
    """Delete the folder of a checkpoint that could not be written, as far as possible."""
    shutil.rmtree(partial, ignore_errors=True)


def _described_files(folder: Path, digests: Mapping[str, FileDigest]) -> dict[str, Any]:
    """Return size and digest of every file of a checkpoint, by its path within the folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    described = {name: digests.get(name) or file_digest(path) for name, path in paths.items()}
    return {
        "files": {name: digest.num_bytes for name, digest in described.items()},
        "digests": {name: digest.as_json() for name, digest in described.items()},
    }


def _partial(root: Path, iteration: int) -> Path:
    folder = iteration_dir(root, iteration)
    return folder.with_name(f"{folder.name}.partial")
