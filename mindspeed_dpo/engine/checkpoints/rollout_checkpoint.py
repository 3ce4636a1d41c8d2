"""Rollouts saved with a checkpoint because the next step trains on them, though older weights sampled them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import verify_stored
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError, recovery_advice
from mindspeed_dpo.storage.digesting_file import DigestingFile
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.text_files import has_file
from mindspeed_dpo.untrusted.torch_archive import read_torch_file

ROLLOUTS_FILE = "rollouts.pt"
_EARLIER_FILE = "answers.pt"  # its name in checkpoints before version 0.2
_TOKENS = ("prompt_tokens", "prompt_lengths", "response_tokens", "response_lengths")
_TOKEN_LOGPS = "rollout_token_logps"  # absent from earlier checkpoints
_OWN = ("rows", "ended", "logps", "version")


def write_rollouts(folder: Path, rollouts: RolloutBatch) -> dict[str, FileDigest]:
    """Write rollouts into the folder of a checkpoint; return the digest of the file by its name.

    Raises:
        OSError: The file cannot be written.
    """
    parts: dict[str, Any] = {name: getattr(rollouts.samples, name) for name in (*_TOKENS, _TOKEN_LOGPS)}
    own = {name: getattr(rollouts, name) for name in _OWN}
    with DigestingFile(folder / ROLLOUTS_FILE) as file:
        try:
            torch.save({**parts, **own}, cast(BinaryIO, file))
        except RuntimeError as error:
            # torch reports a position in its archive instead of the cause.
            raise file.error or error from error
    return {ROLLOUTS_FILE: file.digest}


def read_rollouts(folder: Path) -> RolloutBatch | None:
    """Read the rollouts of a checkpoint, bit-exact; None if it has none.

    Raises:
        CheckpointError: The file is damaged, or holds something else.
    """
    with reraised_as(CheckpointError, recovery_advice(folder)):
        path = next((path for name in (ROLLOUTS_FILE, _EARLIER_FILE) if has_file(path := folder / name)), None)
    if path is None:
        return None
    verify_stored(path)
    with reraised_as(CheckpointError, recovery_advice(folder)):
        parts = _parts(path)
    try:
        samples = PreferenceBatch(**{name: parts.pop(name, None) for name in (*_TOKENS, _TOKEN_LOGPS)})
        return RolloutBatch(samples, **parts)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path} does not hold rollouts: {error}; {recovery_advice(folder)}") from error


def _parts(path: Path) -> dict[str, Any]:
    """Read the items by name, as tensors of their own memory."""
    content = read_torch_file(path)
    if not isinstance(content, dict) or {*content, _TOKEN_LOGPS} != {*_TOKENS, *_OWN, _TOKEN_LOGPS}:
        raise MalformedDataError(f"{path} does not hold the items of rollouts")
    for name, value in content.items():
        if not _has_type(name, value):
            raise MalformedDataError(f"{path}: {name} is not of the type that this package writes")
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in content.items()}


def _has_type(name: str, value: Any) -> bool:
    """Whether an item has the type that `write_rollouts` gives it; lengths are not negative."""
    if name == "version":
        return type(value) is int
    if name in ("logps", _TOKEN_LOGPS):
        return value is None or (isinstance(value, Tensor) and value.is_floating_point())
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex():
        return False
    return (value.dtype == torch.bool) == (name == "ended") and not bool((value.long() < 0).any())
