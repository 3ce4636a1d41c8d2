"""Answers that a checkpoint keeps because the step after it learns from them: sampled before it, by older weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch

ANSWERS = "answers.pt"
_TOKENS = ("prompt_tokens", "prompt_lengths", "response_tokens", "response_lengths")


def write_answers(folder: Path, answers: RolloutBatch) -> None:
    """Put answers into a checkpoint's folder."""
    parts: dict[str, Any] = {name: getattr(answers.answers, name) for name in _TOKENS}
    own = {"rows": answers.rows, "ended": answers.ended, "logps": answers.logps, "version": answers.version}
    torch.save({**parts, **own}, folder / ANSWERS)


def read_answers(folder: Path) -> RolloutBatch | None:
    """The answers in a checkpoint's folder, bit by bit as they were; None where it keeps none."""
    path = folder / ANSWERS
    if not path.is_file():
        return None
    parts: dict[str, Any] = torch.load(path, weights_only=True)
    answers = PreferenceBatch(**{name: parts.pop(name) for name in _TOKENS})
    return RolloutBatch(answers, **parts)
