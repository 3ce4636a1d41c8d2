"""The device suite, `make test-npu`. TEST_DEVICE chooses the device, npu where unset; cpu tries the suite itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import command, succeed
from tests.support.conversions import preprocessing

DEVICE = os.environ.get("TEST_DEVICE", "npu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder for the device, so that they are skipped where there is none."""
    for item in items:
        if Path(__file__).parent in item.path.parents and DEVICE != "cpu":
            item.add_marker(getattr(pytest.mark, DEVICE))


@pytest.fixture(scope="session")
def device() -> str:
    """`npu`, `cuda` or `cpu`."""
    return DEVICE


@pytest.fixture(scope="session")
def lines(device: str) -> dict[str, dict[str, Any]]:
    """The doctor's findings by name; of findings with the same name the last."""
    text = command("-m", "mindspeed_dpo.doctor", "--device", device, "--json").text
    return {one["name"]: one for one in json.loads(text[text.index("{") :])["findings"]}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keys of a run on the examples' model and pairs, in float32."""
    folder = tmp_path_factory.mktemp("made")
    preferences, model, pairs = folder / "pairs.jsonl", folder / "hf", folder / "tokens" / "pairs"
    succeed("examples/tiny/make_preferences.py", preferences)
    succeed("examples/tiny/make_model.py", model)
    succeed("preprocess_data.py", *preprocessing(preferences, model, pairs))
    return {
        "tokenizer_name_or_path": model,
        "load": model,
        "data_path": pairs,
        "bf16": False,
        "eval_interval": 0,
        "log_interval": 1,
        "train_iters": 4,
        "lr_decay_iters": 4,
        "save_interval": 2,
    }
