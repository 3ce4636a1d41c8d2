"""Recognition of YAML files of other trainers, which `mindspeed-dpo migrate` converts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_OWN = "actor_rollout_ref"
ROLL, ALIGN_ANYTHING, TRL = "ROLL", "align-anything", "TRL"
_TRAINERS = {"actor_train": ROLL, "train_cfgs": ALIGN_ANYTHING, "model_name_or_path": TRL}
"""Keys at the top of a file, and the trainer whose file has them."""


def trainer_of(content: Mapping[str, Any]) -> str | None:
    """Return the other trainer whose file has this content; None for any other file."""
    return next((name for key, name in _TRAINERS.items() if key in content), None)


def foreign_file_problem(content: Mapping[str, Any], file: Path) -> str | None:
    """Return the sentence for a configuration that is one of another trainer; None for any other file."""
    trainer = trainer_of(content)
    if trainer is None or _OWN in content:
        return None
    return (
        f"{file} is a file of {trainer}; convert it first: mindspeed-dpo migrate {file} --output {file.stem}_dpo.yaml"
    )
