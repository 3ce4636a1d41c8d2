"""The folder in which the usual mistakes are tried: a model, data, token files, configurations and a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ray._private.accelerators import get_accelerator_manager_for_resource

from mindspeed_dpo.commands import preprocess
from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.controller import cluster_choice, device_checks, host_capacity
from mindspeed_dpo.data.datasets.sampler import sampling_of
from mindspeed_dpo.trainers import output_checks
from tests.support.commands import ROOT
from tests.unit.autoconfig.quick_inputs import PAIRS, model_folder, write_rows
from tests.unit.trainers.saved_runs import write_checkpoint

NUM_PAIRS = 12
_EQUAL = {"prompt": "Why?", "chosen": "So.", "rejected": "So."}
_OTHER_COLUMNS = {"question": "Why?", "good": "So.", "bad": "No."}
_CHANGES = {
    "mine": ("", ""),
    "tab": ("  stage: dpo", "\tstage: dpo"),
    "colon": ("seed: 42", "seed:42"),
    "twice": ("  stage: dpo", "  stage: dpo\n  stage: rm"),
}
"""Name of a configuration -> what differs from one that can be used."""

CONDITIONS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "": lambda patch: None,
    "two cores": lambda patch: patch.setattr(os, "cpu_count", lambda: 2),
    "little memory": lambda patch: patch.setattr(host_capacity, "available_bytes", lambda: 2**28),
    "full disk": lambda patch: patch.setattr(output_checks, "free_bytes", lambda folder: 1000),
}
"""States of a machine that a test cannot have."""


def machine_without_devices_and_clusters(patch: pytest.MonkeyPatch) -> None:
    """Let this machine have no NPU and no Ray."""
    manager = get_accelerator_manager_for_resource("NPU")
    patch.setattr(manager, "get_current_node_num_accelerators", staticmethod(lambda: 0))
    for module in (cluster_choice, device_checks):
        patch.setattr(module, "raylet_started_here", lambda: None)
    patch.delenv("RAY_ADDRESS", raising=False)


def write_inputs() -> None:
    """Write the inputs to the working directory."""
    shutil.copytree(model_folder(), "models/tiny")
    write_rows(Path("pairs.jsonl"), PAIRS[:NUM_PAIRS])
    write_rows(Path("prompts.jsonl"), [{"prompt": row["prompt"]} for row in PAIRS[:NUM_PAIRS]])
    write_rows(Path("equal.jsonl"), [_EQUAL] * 4)
    write_rows(Path("columns.jsonl"), [_OTHER_COLUMNS] * 4)
    Path("empty.jsonl").touch()
    Path("broken.jsonl").write_text(json.dumps(PAIRS[0]) + '\n{"prompt": "Why?", "chosen"\n', encoding="utf-8")
    Path("latin1.jsonl").write_bytes(json.dumps(_EQUAL).replace("Why", "Warum nicht für mich").encode("latin-1"))
    Path("notes.txt").write_text("Nothing to see here.\n", encoding="utf-8")
    Path("dpo.sh").write_text("trl dpo --model_name_or_path Qwen/Qwen3-8B --dataset_name d\n", encoding="utf-8")
    for name, handler in (("pairs", "AlpacaStylePairwiseHandler"), ("prompts", "PPOAlpacaStyleInstructionHandler")):
        _preprocess(name, handler)
    _write_tokens_of_another_tokenizer()
    _write_configurations()
    run = load_run("mine", ["training.output_dir=outputs/first"], "conf")
    write_checkpoint(Path("outputs/first/checkpoints"), run, 10, sampling=sampling_of(run, NUM_PAIRS))


def _preprocess(name: str, handler: str) -> None:
    words = ["--input", f"{name}.jsonl", "--output-prefix", f"tokens/{name}", "--handler-name", handler]
    words += ["--tokenizer-name-or-path", "models/tiny", "--prompt-type", "chat_template"]
    assert preprocess.main([*words, "--map-keys", '{"prompt": "prompt", "query": ""}']) == 0


def _write_tokens_of_another_tokenizer() -> None:
    for path in Path("tokens").glob("pairs_packed_*"):
        shutil.copy(path, path.with_name(path.name.replace("pairs", "other")))
    meta = Path("tokens/other_packed_meta.json")
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "tokenizer_fingerprint": "another"}))


def _write_configurations() -> None:
    text = (ROOT / "configs" / "rlxf" / "offline_dpo_trainer_tiny.yaml").read_text(encoding="utf-8")
    paths = {"./outputs/quickstart/hf": "models/tiny", "./outputs/quickstart/data/pairs": "tokens/pairs"}
    layout = {"tensor_model_parallel_size: 2": "tensor_model_parallel_size: 1", "[2]": "[1]", "l: true": "l: false"}
    for old, new in {**paths, **layout}.items():
        text = text.replace(old, new)
    Path("conf").mkdir()
    for name, change in _CHANGES.items():
        Path("conf", f"{name}.yaml").write_text(text.replace(*change, 1), encoding="utf-8")
    Path("conf/of_trl.yaml").write_text("model_name_or_path: Qwen/Qwen3-8B\nlearning_rate: 1e-6\n", encoding="utf-8")
    Path("conf/of_roll.yaml").write_text("max_steps: 5\nactor_train:\n  model_args: {}\n", encoding="utf-8")
