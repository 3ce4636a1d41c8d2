"""A run with adapters as a user starts it: trained by the command, merged and exported, read by PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import convert_ckpt
from tests.end_to_end.conftest import OwnRun
from tests.support.commands import command, succeed, training
from tests.support.metrics import read_metrics
from tests.support.peft_adapters import base_model, loaded

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.numerics]


def test_adapters_are_trained_and_come_out_for_peft_and_merged(
    own_run: OwnRun, ray_address: str, tmp_path: Path
) -> None:
    out, saved = tmp_path / "out", tmp_path / "out" / "checkpoints"
    keys = {
        **own_run.keys, "load": own_run.model, "lora_target_modules": ["all-linear"], "lora_r": 8, "lora_dropout": 0.05,
        "train_iters": 6, "lr_decay_iters": 6, "save_interval": 4, "eval_interval": 6, "ray_address": ray_address,
        "output_dir": out,
    }  # fmt: skip
    text = succeed(*training((2, 1, 1), **keys, sequence_parallel=True)).text
    assert "the actor with its adapters off, once before training" in text
    steps = read_metrics(out / "metrics.jsonl")
    assert steps[0]["loss"] == pytest.approx(0.6931472, abs=1e-6) and steps[-1]["loss"] < 0.69
    merged = tmp_path / "merged"
    assert convert_ckpt.main(["--load-dir", str(saved), "--save-model-type", "hf", "--save-dir", str(merged)]) == 0
    adapter = saved / "iter_0000006" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 8
    tokens = torch.tensor([[5, 1, 7, 200]])
    with torch.no_grad():
        logits = base_model(merged)(tokens).logits
        torch.testing.assert_close(logits, loaded(own_run.model, adapter)(tokens).logits, rtol=0, atol=1e-5)
        assert (logits - base_model(own_run.model)(tokens).logits).abs().max() > 1e-3


def test_a_misspelt_target_stops_the_command(own_run: OwnRun, tmp_path: Path) -> None:
    finished = command(*training((1, 1, 1), **own_run.keys, lora_target_modules=["qproj"], output_dir=tmp_path / "out"))
    assert finished.code == 2 and "did you mean q_proj?" in finished.text
    assert not (tmp_path / "out").exists()
