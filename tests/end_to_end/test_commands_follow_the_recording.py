"""From raw rows and Hugging Face weights to a trained Hugging Face model by the commands alone, against a recording.

The sigmoid case under the layout that combines the most. `tests/distributed` has every layout, from converted weights
and back as here, and the other cases and settings, without commands and Ray.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import preprocess_data
from tests.recordings.files import POLICY, recording
from tests.support.commands import succeed, training
from tests.support.conversions import assert_exported_completely, to_mcore
from tests.support.metrics import read_metrics
from tests.support.recorded_runs import compare, preprocess_arguments, recorded_keys

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CASE = "sigmoid"
LAYOUT = (2, 2, 1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded rows as token files."""
    prefix = tmp_path_factory.mktemp("recorded") / "pairs"
    assert preprocess_data.main([str(word) for word in preprocess_arguments(recording(CASE)["data"], prefix)]) == 0
    return prefix


def test_the_commands_follow_the_recording(pairs: Path, ray_address: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = {
        **recorded_keys(CASE, run),
        "data_path": pairs,
        "load": to_mcore(POLICY, tmp_path / "mcore", LAYOUT),
        "sequence_parallel": True,
        "split": "100,0,0",
        "eval_interval": 0,
    }
    succeed(*training(LAYOUT, **keys), f"training.ray_address={ray_address}")
    compare(CASE, read_metrics(run / "metrics.jsonl"), run / "checkpoints")
    assert_exported_completely(run / "checkpoints", tmp_path / "hf")
