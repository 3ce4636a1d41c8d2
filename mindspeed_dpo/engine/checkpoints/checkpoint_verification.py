"""Verification of checkpoints: files are compared with the digests in the metadata; the newest undamaged checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import (
    METADATA,
    TRACKER,
    CheckpointError,
    iteration_dir,
    read_metadata,
    read_tracker,
    recovery_advice,
)
from mindspeed_dpo.storage.digest_verification import verify_file
from mindspeed_dpo.storage.digests import DamageError, FileDigest, digests_from_json
from mindspeed_dpo.untrusted.errors import reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.text_files import has_file

logger = logging.getLogger(__name__)


TENSOR_SUFFIX = ".distcp"


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
    with reraised_as(CheckpointError, recovery_advice(folder)):
        return file_digests(read_json_object(path).plain()) if has_file(path) else {}


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


def _verify(folder: Path, digests: Mapping[str, FileDigest]) -> None:
    try:
        for name, digest in digests.items():
            verify_file(folder / name, digest)
    except (DamageError, OSError) as error:
        raise CheckpointError(f"{error}; {recovery_advice(folder)}") from error


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
