"""Rollouts saved with a checkpoint because the next step trains on them, though older weights sampled them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch

ROLLOUTS_FILE = "rollouts.pt"
_EARLIER_FILE = "answers.pt"  # its name in checkpoints before version 0.2
_TOKENS = ("prompt_tokens", "prompt_lengths", "response_tokens", "response_lengths")


def write_rollouts(folder: Path, rollouts: RolloutBatch) -> None:
    """Write rollouts into the folder of a checkpoint."""
    parts: dict[str, Any] = {name: getattr(rollouts.samples, name) for name in _TOKENS}
    own = {"rows": rollouts.rows, "ended": rollouts.ended, "logps": rollouts.logps, "version": rollouts.version}
    torch.save({**parts, **own}, folder / ROLLOUTS_FILE)


def read_rollouts(folder: Path) -> RolloutBatch | None:
    """Read the rollouts of a checkpoint, bit-exact; None if it has none."""
    path = next((path for name in (ROLLOUTS_FILE, _EARLIER_FILE) if (path := folder / name).is_file()), None)
    if path is None:
        return None
    parts: dict[str, Any] = torch.load(path, weights_only=True)
    samples = PreferenceBatch(**{name: parts.pop(name) for name in _TOKENS})
    return RolloutBatch(samples, **parts)
