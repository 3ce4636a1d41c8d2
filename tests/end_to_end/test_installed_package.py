"""The package as a wheel installs it, outside the repository: its program, configurations and example rewards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mindspeed_dpo
from tests.support.commands import ROOT, Finished, Running
from tests.support.metrics import num_steps
from tests.support.online_inputs import RULE, online_inputs
from tests.support.runs import online_overrides

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel installs; the libraries are those of this environment."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    for words in (["wheel", *options, "-w", wheels, ROOT], ["install", *options, "--target", folder, "-f", wheels]):
        requirement = [] if words[0] == "wheel" else [f"mindspeed-dpo=={mindspeed_dpo.__version__}"]
        subprocess.run([*pip, *map(str, words), *requirement], check=True, cwd=wheels, timeout=300)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> Finished:
    """Run the installed program in a folder."""
    program = installed / "bin" / "mindspeed-dpo"
    with Running([program, *arguments], folder, PYTHONPATH=str(installed)) as running:
        return running.finish()


def test_the_program_trains_with_the_configuration_and_reward_that_it_brings(installed: Path, tmp_path: Path) -> None:
    inputs = online_inputs(tmp_path / "inputs")
    keys = {**inputs.keys, "train_iters": 1, "reward_functions": [RULE], "output_dir": "out"}
    overrides = online_overrides((1, 1, 1), **keys)
    trained = run(installed, tmp_path, "train", "--config-name", "online_dpo_trainer_tiny", *overrides)
    assert trained.code == 0, trained.text
    assert num_steps(tmp_path / "out") == 1


def test_the_program_says_its_version_and_its_commands(installed: Path, tmp_path: Path) -> None:
    assert run(installed, tmp_path, "--version").text == f"mindspeed-dpo {mindspeed_dpo.__version__}\n"
    wrong = run(installed, tmp_path, "trian")
    assert wrong.code == 2 and "there is no command trian; did you mean train?" in wrong.text
    unknown = run(installed, tmp_path, "preprocess", "no_such_set")
    assert unknown.code == 1 and "mindspeed-dpo preprocess: there is no dataset file no_such_set" in unknown.text
