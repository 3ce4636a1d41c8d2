"""What is recorded of TRL's RewardTrainer: the settings of every case, and where its files are."""

from __future__ import annotations

from typing import Any

from tests.recordings.cases import HYPERPARAMETERS
from tests.recordings.files import DATA

FOLDER = DATA / "reward_model"
"""Initial classifiers, rows and recordings."""
MAX_LENGTH = 128
"""Tokens of a sequence; TRL leaves out longer rows, of which there are none."""
OPTIONS: dict[str, Any] = {"center_rewards_coefficient": None}
CASES: dict[str, dict[str, Any]] = {
    "llama": {"model": "llama"},
    "llama_margin_centred": {"model": "llama", "data": "margins.jsonl", "center_rewards_coefficient": 0.05},
    # Only the last tokens reach the last router: some of its gradients are below 1e-8, Adam's usual epsilon, and would
    # turn roundings into updates.
    "qwen3_moe": {"model": "qwen3_moe", "hp": {"eps": 1e-6}},
}
"""What a case changes. `model` names the folder of a classifier, `data` a file of rows beside the other recordings."""
WITH_FINAL_WEIGHTS = ("llama", "qwen3_moe")
"""Cases whose final weights are stored; of the others only how far they moved."""


def settings(case: str) -> dict[str, Any]:
    """All settings of a case."""
    changes = dict(CASES[case])
    model, data, hyper = changes.pop("model"), changes.pop("data", None), changes.pop("hp", {})
    rows = f"reward_model/{data}" if data else "preferences.jsonl"
    return {"model": model, "data": rows, "max_length": MAX_LENGTH, "options": {**OPTIONS, **changes},
            "hp": HYPERPARAMETERS | hyper}  # fmt: skip
