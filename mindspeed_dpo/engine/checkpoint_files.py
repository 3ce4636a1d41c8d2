"""Checkpoint folders: paths, completeness, metadata and digests. Imports neither torch nor megatron-core.

`<save>/iter_0000010/` holds megatron-core's distributed checkpoint and the metadata `mindspeed_dpo.json`, which has
size and digest of every other file, and a digest of itself.
`<save>/latest_checkpointed_iteration.txt`, the tracker, names the newest complete checkpoint. A checkpoint is written
under a temporary name and renamed once every rank is done; the tracker is updated last.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoint_metadata import check_metadata
from mindspeed_dpo.storage.digests import (
    ALGORITHM,
    DamageError,
    FileDigest,
    digest_of,
    digests_from_json,
    file_digest,
    is_within,
    verify_file,
)
from mindspeed_dpo.storage.folder_replacement import REPLACED, earlier_content, replace_folder, restore_folder
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_object import JsonObject
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import read_bytes

TRACKER = "latest_checkpointed_iteration.txt"
METADATA = "mindspeed_dpo.json"
FORMAT = 2
TENSOR_SUFFIX = ".distcp"
RESUME_KEY = "actor_rollout_ref.actor_rollout.resume"
LATEST_WHOLE = "latest_whole"
EARLIER_ARE_COMPLETE = ". Earlier checkpoints are complete"

logger = logging.getLogger(__name__)
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
            f"{folder} is not a complete checkpoint: {', '.join(missing)} missing; {way_out(folder)}, "
            f"or finetune=true to load only the weights{earlier_content(folder)}"
        )
    with reraised_as(CheckpointError, way_out(folder)):
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
            f"{folder} is damaged: {', '.join(damaged)} missing or of another size than when written; {way_out(folder)}"
        )
    return metadata


def way_out(folder: Path) -> str:
    """Return what to do about a damaged checkpoint, with the overrides of the command line."""
    return (
        f"resume the newest undamaged one with {RESUME_KEY}_from={folder.parent} {RESUME_KEY}={LATEST_WHOLE}, or use "
        "an earlier iteration"
    )


def file_digests(metadata: Mapping[str, Any]) -> dict[str, FileDigest]:
    """Return the digests that a checkpoint's metadata holds, by file name; empty in those of earlier versions.

    Raises:
        CheckpointError: They are malformed.
    """
    try:
        return digests_from_json(metadata.get("digests"))
    except DamageError as error:
        raise CheckpointError(f"{METADATA} is damaged: {error}") from error


def stored_digests(folder: Path) -> dict[str, FileDigest]:
    """Return the digests in the metadata of a folder, by file name; empty where it has none.

    Raises:
        CheckpointError: The metadata is damaged.
    """
    path = folder / METADATA
    with reraised_as(CheckpointError, way_out(folder)):
        return file_digests(read_json_object(path).plain()) if path.is_file() else {}


def verify_stored(path: Path) -> None:
    """Compare a file of a checkpoint with its digest in the metadata, if it has one.

    Raises:
        CheckpointError: It differs.
    """
    digest = stored_digests(path.parent).get(path.name)
    _verify(path.parent, {} if digest is None else {path.name: digest})


def verify_small_files(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Compare all files but those of the tensors with their digests; the latter are checked while they are loaded.

    Raises:
        CheckpointError: A file is damaged; the message names it and both digests.
    """
    digests = file_digests(metadata)
    _verify(folder, {name: digest for name, digest in digests.items() if not name.endswith(TENSOR_SUFFIX)})


def verify(folder: Path) -> None:
    """Compare all files of a checkpoint with their digests, or with their sizes if it has none.

    Raises:
        CheckpointError: The checkpoint is incomplete or damaged.
    """
    _verify(folder, file_digests(read_metadata(folder)))


def latest_whole(root: Path, last: int | None = None) -> Path:
    """Return the newest undamaged checkpoint of a save folder; log those that are passed over, and why.

    Args:
        root: The save folder.
        last: Iteration to begin with; by default the one that the tracker names, or the highest.

    Raises:
        CheckpointError: There is none.
    """
    reasons = []
    for iteration in _newest_first(root, last):
        folder = iteration_dir(root, iteration)
        try:
            logger.info("verifying the files of %s", folder)
            verify(folder)
        except CheckpointError as error:
            reason = str(error).partition("; resume the newest undamaged one")[0]
            logger.warning("passed over: %s", reason)
            reasons.append(reason)
            continue
        return folder
    raise CheckpointError(
        f"{root} holds no undamaged checkpoint"
        + (f": {'; '.join(reasons)}" if reasons else "; give the `save` folder of a run")
    )


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
    content[ALGORITHM] = _own_digest(content)
    _write_durably(partial / METADATA, json.dumps(content, indent=2) + "\n")
    replace_folder(partial, final, aside=_aside(final))
    temporary = root / f"{TRACKER}.partial"
    _write_durably(temporary, str(iteration))
    os.replace(temporary, root / TRACKER)


def discard(partial: Path) -> None:
    """Delete the folder of a checkpoint that could not be written, as far as possible."""
    shutil.rmtree(partial, ignore_errors=True)


def _described_files(folder: Path, digests: Mapping[str, FileDigest]) -> dict[str, Any]:
    """Return size and digest of every file of a checkpoint, by its path within the folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    known = {name: digests.get(name) or file_digest(path) for name, path in paths.items()}
    return {
        "files": {name: digest.num_bytes for name, digest in known.items()},
        "digests": {name: digest.as_json() for name, digest in known.items()},
    }


def _own_digest(content: Mapping[str, Any]) -> str:
    """Return the digest of a metadata file's content without this digest."""
    return digest_of(json.dumps({key: value for key, value in content.items() if key != ALGORITHM}).encode())


def _check_own_digest(folder: Path, metadata: dict[str, Any]) -> None:
    expected = metadata.get(ALGORITHM)
    if expected is not None and (actual := _own_digest(metadata)) != expected:
        raise CheckpointError(
            f"{folder / METADATA} is damaged: it was written with the {ALGORITHM} digest {expected} and now has "
            f"{actual}; {way_out(folder)}"
        )


def _verify(folder: Path, digests: Mapping[str, FileDigest]) -> None:
    try:
        for name, digest in digests.items():
            verify_file(folder / name, digest)
    except (DamageError, OSError) as error:
        raise CheckpointError(f"{error}; {way_out(folder)}") from error


def _newest_first(root: Path, last: int | None) -> Iterator[int]:
    """Yield the iterations of a save folder: the newest by its tracker first, then lower ones, then those above.

    Iterations above the tracker's stem from an attempt before a run was resumed at an earlier step.
    """
    numbers = sorted((int(path.name[5:]) for path in root.glob("iter_*") if path.name[5:].isdigit()), reverse=True)
    tracked = read_tracker(root / TRACKER) if (root / TRACKER).is_file() else None
    newest = next((number for number in (last, tracked) if number is not None), max(numbers, default=0))
    yield from (number for number in numbers if number <= newest)
    if last is None:
        yield from (number for number in numbers if number > newest)


def _write_durably(path: Path, text: str) -> None:
    """Write a text file and flush it to the disk, so that a rename after it survives a power failure."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _partial(root: Path, iteration: int) -> Path:
    folder = iteration_dir(root, iteration)
    return folder.with_name(f"{folder.name}.partial")


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}{REPLACED}")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
