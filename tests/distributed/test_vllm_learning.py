"""Online DPO with vLLM learns the shipped example's rule, as it does with the builtin engine, also if it is killed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mindspeed_dpo.vllm_engine.leftovers import shared_segments
from tests.support.commands import until
from tests.support.killed_processes import writers
from tests.support.metrics import num_steps
from tests.support.online_inputs import RULE, online_inputs
from tests.support.resuming import saved_iteration
from tests.support.runs import tiny_online_run, train
from tests.support.vllm_python import NEEDS_VLLM, vllm_python

pytestmark = [pytest.mark.distributed, pytest.mark.slow, NEEDS_VLLM]

HEAD = 32
"""The shipped model has heads of 16, which vLLM's attention on the host does not take."""
SAVE_INTERVAL, KILLED_AFTER = 4, 6


@pytest.mark.parametrize("seed", [1])  # docs/vllm.md has the results of three
def test_the_shipped_example_learns_its_rule_though_its_engine_is_killed(seed: int, tmp_path: Path) -> None:
    # The threshold is that of the builtin engine (test_online_learning.py).
    inputs, output_dir = online_inputs(tmp_path), tmp_path / "out"
    config = AutoConfig.from_pretrained(inputs.model)
    config.head_dim = HEAD
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(inputs.model)
    vllm = f"{{python: {vllm_python(tmp_path)}, enforce_eager: true}}"
    keys = {"rollout_engine": "vllm", "vllm": vllm, "kv_channels": HEAD, "num_gpus_for_infer": 1, "seed": seed}
    keys |= {**inputs.keys, "reward_functions": [RULE], "output_dir": output_dir, "save_interval": SAVE_INTERVAL}
    with ThreadPoolExecutor() as threads:
        left = threads.submit(kill_engine, output_dir)
        with pytest.raises(AssertionError, match=r"the vLLM engine \(process .* was killed by signal 9"):
            train(tiny_online_run(**keys))
    assert not [path for path in left.result() if path.exists()] and not writers(output_dir, "vllm")
    assert SAVE_INTERVAL <= saved_iteration(output_dir) <= num_steps(output_dir) + 1
    steps = train(tiny_online_run(**keys, resume_from=output_dir))
    assert [int(step["step"]) for step in steps] == list(range(1, len(steps) + 1))
    assert steps[0]["objective/scores"] < 0.1
    assert sum(step["objective/scores"] for step in steps[-5:]) / 5 > 0.9
    assert max(step["rollout/logp_diff/max"] for step in steps) < 1e-4
    assert steps[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)


def kill_engine(output_dir: Path) -> list[Path]:
    """Kill vLLM in the middle of the run; its shared memory and its folder, which must not be left."""
    until(lambda: num_steps(output_dir) >= KILLED_AFTER, "the middle of the run")
    (engine,) = writers(output_dir, "vllm")
    family = [engine, *engine.children(recursive=True)]
    left = [*map(Path, shared_segments(process.pid for process in family)), Path(engine.environ()["TMPDIR"])]
    assert left[-1].is_dir()
    engine.kill()
    assert not psutil.wait_procs(family, timeout=60)[1]
    return left
