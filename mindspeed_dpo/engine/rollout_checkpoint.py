"""Rollouts saved with a checkpoint because the next step trains on them, though older weights sampled them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.engine.checkpoint_files import stored_digests
from mindspeed_dpo.storage.digests import DigestingFile, FileDigest, open_verified

ROLLOUTS_FILE = "answers.pt"
_TOKENS = ("prompt_tokens", "prompt_lengths", "response_tokens", "response_lengths")


def write_rollouts(folder: Path, rollouts: RolloutBatch) -> dict[str, FileDigest]:
    """Write rollouts into the folder of a checkpoint; return the digest of the file by its name.

    Raises:
        OSError: The file cannot be written.
    """
    parts: dict[str, Any] = {name: getattr(rollouts.samples, name) for name in _TOKENS}
    own = {"rows": rollouts.rows, "ended": rollouts.ended, "logps": rollouts.logps, "version": rollouts.version}
    with DigestingFile(folder / ROLLOUTS_FILE) as file:
        try:
            torch.save({**parts, **own}, file)
        except RuntimeError as error:
            # torch reports a position in its archive instead of the cause.
            raise file.error or error from error
    return {ROLLOUTS_FILE: file.digest}


def read_rollouts(folder: Path) -> RolloutBatch | None:
    """Read the rollouts of a checkpoint, bit-exact; None if it has none.

    Raises:
        DamageError: The file differs from what was written.
    """
    path = folder / ROLLOUTS_FILE
    if not path.is_file():
        return None
    with open_verified(path, stored_digests(folder).get(ROLLOUTS_FILE)) as file:
        parts: dict[str, Any] = torch.load(file, weights_only=True)
    samples = PreferenceBatch(**{name: parts.pop(name) for name in _TOKENS})
    return RolloutBatch(samples, **parts)
