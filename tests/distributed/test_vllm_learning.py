"""Online DPO with vLLM learns the shipped example's rule, as it does with the builtin engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.online_inputs import RULE, online_inputs
from tests.support.runs import tiny_online_run, train
from tests.support.vllm_python import NEEDS_VLLM, vllm_python

pytestmark = [pytest.mark.distributed, pytest.mark.slow, NEEDS_VLLM]

HEAD = 32
"""The shipped model has heads of 16, which vLLM's attention on the host does not take."""


def test_the_shipped_example_learns_its_rule_with_vllm(tmp_path: Path) -> None:
    # The threshold is that of the builtin engine (test_online_learning.py).
    inputs = online_inputs(tmp_path)
    config = AutoConfig.from_pretrained(inputs.model)
    config.head_dim = HEAD
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(inputs.model)
    vllm = f"{{python: {vllm_python(tmp_path)}, enforce_eager: true}}"
    keys = {"rollout_engine": "vllm", "vllm": vllm, "kv_channels": HEAD, "num_gpus_for_infer": 1, "seed": 1}
    steps = train(tiny_online_run(**inputs.keys, **keys, reward_functions=[RULE], output_dir=tmp_path / "out"))
    assert steps[0]["objective/scores"] < 0.1
    assert sum(step["objective/scores"] for step in steps[-5:]) / 5 > 0.9
    assert max(step["rollout/logp_diff/max"] for step in steps) < 1e-4
    assert steps[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
