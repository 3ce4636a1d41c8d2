"""Makes what the recorded runs of the RewardTrainer start from: tiny random classifiers, and rows with a margin.

    python -m tests.recordings.reward_model.inputs DIR

The repository has these files already (`tests/recordings/data/reward_model`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForSequenceClassification

from tests.recordings.files import POLICY, read_rows
from tests.recordings.inputs import QWEN3_MOE, ROPE_THETA, SMALL, save_model

LLAMA: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "num_experts_per_tok"}


def write_models(folder: Path) -> None:
    """Both classifiers; the vocabulary and the special tokens are those of the recorded policy."""
    policy = json.loads((POLICY / "config.json").read_text())
    names = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    common = {name: policy[name] for name in names} | {
        "num_labels": 1, "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
    }  # fmt: skip
    for name, config in (
        ("llama", LlamaConfig(**common, **LLAMA)),
        ("qwen3_moe", Qwen3MoeConfig(**common, **QWEN3_MOE)),
    ):
        torch.manual_seed(3)
        save_model(AutoModelForSequenceClassification.from_config(config).float(), folder / name)


def write_rows(folder: Path) -> None:
    """The recorded pairs, each with a margin."""
    rows = [{**row, "margin": place % 4 / 4} for place, row in enumerate(read_rows("preferences.jsonl"))]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "margins.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_models(Path(sys.argv[1]))
    write_rows(Path(sys.argv[1]))
