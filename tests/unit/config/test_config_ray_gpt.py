"""The command line: what it prints, what it returns, and that nothing starts on a bad configuration."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

import ray_gpt
from mindspeed_dpo.config.run import RunConfig

TINY = "offline_dpo_trainer_tiny"
PATHS = [
    "actor_rollout_ref.actor_rollout.load=.",
    "training.tokenizer_name_or_path=.",
]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The runs handed to a stand-in for the trainers, which answers with exit code 7."""
    runs: list[RunConfig] = []
    stand_in = ModuleType("mindspeed_dpo.trainers.assemble")
    stand_in.run = lambda run: runs.append(run) or 7  # type: ignore[attr-defined]
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: stand_in if name == stand_in.__name__ else real(name))
    return runs


def test_a_good_configuration_is_handed_on_and_its_exit_code_kept(
    started: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ray_gpt.load_run.__kwdefaults__, "exists", lambda path: True)
    assert ray_gpt.main(["--config-name", TINY, "training.train_iters=3"]) == 7
    assert [run.loop.train_iters for run in started] == [3]


def test_problems_are_listed_and_nothing_starts(started: list[RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = "actor_rollout_ref.actor_rollout.data_path=./nowhere/pairs"
    assert ray_gpt.main(["training.lr=x", "--config-name", TINY, "training.beta=2", *PATHS, nowhere]) == 2
    told = capsys.readouterr().err
    assert "error: 3 problems in the configuration" in told
    assert "  - training.lr=x must be a number" in told
    assert "  - training.beta is not a known key; did you mean dpo_beta" in told
    assert "pairs_packed_chosen_input_ids_document.bin" in told
    assert started == []


def test_without_a_name_the_configurations_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ray_gpt.main([]) == 2
    assert f"  - {TINY}" in capsys.readouterr().err


def test_checking_a_configuration_needs_no_torch() -> None:
    code = (
        "import sys, ray_gpt; code = ray_gpt.main(['--config-name', 'nothing']); "
        "sys.exit(code if not {'torch', 'ray', 'megatron'} & set(sys.modules) else 99)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 2
