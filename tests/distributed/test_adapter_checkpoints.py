"""What a checkpoint of adapters can be used for afterwards, and what is said where it cannot."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convert_ckpt
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.trainers.run_inputs import open_inputs
from mindspeed_dpo.weights import WeightsError, open_weights
from tests.support.adapters import adapter_run, save_tiny_policy
from tests.support.peft_adapters import base_model, loaded
from tests.support.processes import PoolGroup
from tests.support.runs import train

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = np.arange(5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model, and the folder of a run that trained adapters on it."""
    folder = tmp_path_factory.mktemp("trained")
    policy = save_tiny_policy(folder / "hf")
    train(adapter_run(folder / "run", policy, lr=0.05))
    return policy, folder / "run"


def scores(run: RunConfig) -> np.ndarray:
    group = PoolGroup(run, 1)
    group.build("actor")
    return ActorGroup(group).log_probs(ROWS)


def test_it_is_an_adapter_to_start_from_and_merged_weights_to_start_from(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    policy, run = trained
    saved = run / "out" / "checkpoints"
    base = scores(adapter_run(tmp_path, policy))
    with_adapters = scores(adapter_run(tmp_path, policy, lora_load=saved))
    merged = scores(adapter_run(tmp_path, saved, lora_target_modules=[], lora_r=16, lora_alpha=32))
    assert np.abs(with_adapters - base).max() > 0.1
    np.testing.assert_allclose(merged, with_adapters, rtol=1e-5, atol=1e-5)
    # A run with adapters of its own over merged weights: the new ones change nothing yet.
    np.testing.assert_allclose(scores(adapter_run(tmp_path, saved)), with_adapters, rtol=1e-5, atol=1e-5)


def test_weights_that_have_moved_are_named(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = shutil.copytree(trained[0], tmp_path / "base")
    train(adapter_run(tmp_path, policy, train_iters=1))
    saved = tmp_path / "out" / "checkpoints"
    moved = shutil.move(policy, tmp_path / "moved")
    with pytest.raises(WeightsError, match=r"which does not exist; restore it, or merge with convert_ckpt\.py"):
        open_weights(saved)
    to_hf = ["--save-model-type=hf", f"--lora-load={saved}"]
    assert convert_ckpt.main([*to_hf, f"--load-dir={moved}", f"--save-dir={tmp_path / 'merged'}"]) == 0
    tokens = torch.tensor([[5, 1, 7, 200]])
    with torch.no_grad():
        expected = loaded(moved, saved / "iter_0000001" / "adapter")(tokens).logits
        torch.testing.assert_close(base_model(tmp_path / "merged")(tokens).logits, expected, rtol=0, atol=1e-5)
    other = save_tiny_policy(tmp_path / "other", seed=3)
    assert convert_ckpt.main([*to_hf, f"--load-dir={other}", f"--save-dir={tmp_path / 'rejected'}"]) == 1
    assert "does not hold the weights that the adapters of" in capsys.readouterr().err
    assert not (tmp_path / "rejected").exists()


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "another rank": (
        {"lora_r": 8},
        "resume it with lora_target_modules=[q_proj, v_proj, ",
    ),
    "another scale": ({"use_rslora": True}, "lora_alpha=8 and use_rslora=false"),
    "all weights": (
        {"lora_target_modules": [], "lora_r": 16, "lora_alpha": 32},
        "contains adapters with other settings",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_with_other_adapters_does_not_go_on(change: str, trained: tuple[Path, Path], tmp_path: Path) -> None:
    policy, run = trained
    keys, sentence = CHANGES[change]
    with pytest.raises(CheckpointError, match=re.escape(sentence)):
        open_inputs(adapter_run(run, policy, resume_from=run / "out", train_iters=8, **keys))


def test_other_base_weights_cannot_be_resumed(trained: tuple[Path, Path], tmp_path: Path) -> None:
    other, run = save_tiny_policy(tmp_path / "other", seed=3), trained[1]
    with pytest.raises(CheckpointError, match=f"was trained on the weights in .*; those in .*{other.name} differ"):
        open_inputs(adapter_run(run, other, resume_from=run / "out", train_iters=8))


def test_adapters_and_all_weights_do_not_continue_each_other(trained: tuple[Path, Path], tmp_path: Path) -> None:
    policy, run = trained
    with pytest.raises(CheckpointError, match="contains adapters only; resume its run with resume_from and load="):
        open_inputs(adapter_run(tmp_path, run / "out" / "checkpoints", finetune=False))
    complete = {"lora_target_modules": [], "lora_r": 16, "lora_alpha": 32}
    train(adapter_run(tmp_path, policy, **complete, train_iters=1))
    with pytest.raises(CheckpointError, match="contains all weights and no adapters; start a new run"):
        open_inputs(adapter_run(tmp_path, policy, resume_from=tmp_path / "out", train_iters=8))
