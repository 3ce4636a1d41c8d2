"""`device: npu` over the reference torch_npu and MindSpeed: it trains as the CPU does, and as was recorded from TRL.

Everything is on the host here: what is shown is the order of starting, the calls of operators and collectives, and that
MindSpeed's effects change nothing. Kernels and HCCL are not shown. `make test-mindspeed` runs this file with the real
MindSpeed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import test_experts_against_hf as experts
from tests.distributed import test_online_equals_offline as online
from tests.support.closeness import FULL, RECORDED, STEADY, assert_same_run, assert_same_tensors
from tests.support.jobs import Job, gradient_job, read_tensors
from tests.support.npu_calls import calls_of_roles, calls_since, let_prefixes_fail, number_of_calls, sizes_of_config
from tests.support.npu_processes import SETTINGS
from tests.support.processes import PoolGroup, pool
from tests.support.recorded_layouts import run_of
from tests.support.recorded_runs import compare, recorded_run
from tests.support.runs import Layout, train
from tests.support.tiny_models import save_tiny_model
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rollouts import Jobs, online_run, write_inputs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

NPU = {"device": "npu", "distributed_backend": "auto"}
OPERATORS = {"npu_fusion_attention", "npu_rms_norm", "npu_rotary_mul", "npu_swiglu"}
COMPARED = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected", "entropy", "mean_token_accuracy")


@pytest.mark.parametrize(
    ("case", "layout", "settings"),
    [
        ("sigmoid", (1, 1, 1), {}),
        ("ipo", (2, 1, 1), {"sequence_parallel": True, "use_distributed_optimizer": True}),
        ("sigmoid_trunc", (1, 2, 1), {"micro_batch_size": 1}),
        ("sigmoid", (1, 1, 1), {"context_parallel_size": 2}),
    ],
)
def test_training_on_npu_follows_the_cpu_and_the_recording(
    case: str, layout: Layout, settings: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("cpu", "npu"):
        (tmp_path / name).mkdir()
    on_cpu = train(recorded_run(case, layout, tmp_path / "cpu", **settings))
    processes = pool(layout[0] * layout[1] * settings.get("context_parallel_size", 1), device="npu")
    before = min(processes.run(number_of_calls))
    on_npu = train(recorded_run(case, layout, tmp_path / "npu", **NPU, **settings))
    assert_same_run(on_npu, on_cpu, RECORDED, COMPARED)
    compare(case, on_npu, tmp_path / "npu" / "checkpoints")
    for calls in processes.run(calls_since, before):
        attention = [options for name, options in calls if name == "npu_fusion_attention"]
        assert {name for name, _ in calls} == OPERATORS
        assert {(one["input_layout"], one["sparse_mode"]) for one in attention} == {("TND", 3)}
        # Shared prompts: queries fewer than keys.
        assert any(one["actual_seq_qlen"] != one["actual_seq_kvlen"] for one in attention)


OTHERS = [
    ("sigmoid", (2, 1, 1)), ("sigmoid", (1, 2, 1)), ("ipo", (1, 1, 1)), ("ipo", (1, 2, 1)),
    ("sigmoid_trunc", (1, 1, 1)), ("sigmoid_trunc", (2, 1, 1)),
]  # fmt: skip
"""Recordings and layouts that the comparison with the CPU above leaves out."""


@pytest.mark.parametrize(("case", "layout"), OTHERS)
def test_training_on_npu_follows_the_recording(case: str, layout: Layout, tmp_path: Path) -> None:
    compare(case, train(recorded_run(case, layout, tmp_path, **NPU)), tmp_path / "checkpoints")


@pytest.mark.parametrize("layout", [(1, 1, 1), (2, 1, 1), (1, 2, 1)], ids=str)
def test_online_training_with_fixed_responses_is_that_on_the_cpu_and_offline_training(
    layout: Layout, tmp_path: Path
) -> None:
    weights = write_inputs(tmp_path)
    # Random weights are drawn on the device, which has numbers of its own.
    settings = {"random_init": False, "finetune": True, "load": weights, "sequence_parallel": layout[0] > 1}
    settings |= {"train_iters": online.STEPS, "global_batch_size": online.BATCH, **STEADY}
    actual = {}
    for name, device, responses in (("offline", NPU, 0), ("pairs", NPU, 2), ("online", NPU, 3), ("cpu", {}, 3)):
        (tmp_path / name).mkdir()
        run = random_run(tmp_path / name, layout, **settings, **device)
        actual[name] = online.train(run, responses, tmp_path / name)
    online.assert_same_bits(actual["pairs"], actual["offline"])
    online.assert_close(actual["online"], actual["offline"])
    online.assert_close(actual["online"], actual["cpu"])
    assert actual["online"].metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("layout", "inference_tp", "own"),
    [((1, 1, 1), 1, 0), ((2, 1, 1), 2, 0), ((1, 2, 1), 1, 1)],
    ids=["in place", "in place, two ranks", "own, of two stages"],
)
def test_a_rollout_on_npu_generates_as_one_on_the_cpu_with_trained_weights(
    layout: Layout, inference_tp: int, own: int, tmp_path: Path
) -> None:
    sampled = []
    for device in ({}, NPU):
        jobs = Jobs(online_run(tmp_path, layout, inference_tp, own, lr=1e-2, **device), tmp_path)
        jobs.learn()
        jobs.hand_over(1)
        before = min(jobs.rollout.inspect(calls_of_roles)) if device else 0
        sampled.append(jobs.generate([4, 0, 2, 1], 7, 1))
        if device:
            assert min(jobs.rollout.inspect(calls_of_roles)) > before
        # What a device sums in float32 travels in it here.
        policys = jobs.logps(sampled[-1].samples).double()
        torch.testing.assert_close(sampled[-1].logps, policys, rtol=1e-4, atol=1e-4)
    on_cpu, on_npu = sampled
    assert torch.equal(on_npu.samples.response_tokens, on_cpu.samples.response_tokens)
    assert torch.equal(on_npu.samples.response_lengths, on_cpu.samples.response_lengths)
    torch.testing.assert_close(on_npu.logps, on_cpu.logps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_saved_run_goes_on_as_if_never_stopped_where_the_librarys_format_would_not_load(
    is_sharded: bool, tmp_path: Path
) -> None:
    # The reference MindSpeed has no sharding type of the optimizer that loads: code that used one would fail here.
    settings = {"train_iters": 4, "save_interval": 2, "lr": 1e-2, "use_distributed_optimizer": is_sharded, **NPU}
    complete = train(random_run(tmp_path, (1, 1, 2), **settings))
    saved = tmp_path / "out" / "checkpoints" / "iter_0000002"
    again = random_run(tmp_path, (1, 1, 2), **{**settings, "output_dir": tmp_path / "again", "resume_from": saved})
    rest = train(again)
    assert [record["step"] for record in rest] == [3, 4]
    for one, other in zip(rest, complete[2:], strict=True):
        assert (one["loss"], one["grad_norm"]) == (other["loss"], other["grad_norm"])


def test_settings_passed_to_mindspeed_for_another_role_do_not_reach_a_config(tmp_path: Path) -> None:
    group = PoolGroup(random_run(tmp_path, **NPU), 1)
    group.build("actor")
    actual = group.inspect(sizes_of_config)[0]
    group.leave()
    assert actual[1:] == (1, False)
    assert (SETTINGS["tensor_model_parallel_size"], SETTINGS["variable_seq_lengths"]) == (2, True)


def test_prompts_are_repeated_where_the_device_cannot_share_them(tmp_path: Path) -> None:
    settings = {"train_iters": 2, **STEADY, **NPU}
    shared = train(random_run(tmp_path, **settings))
    processes = pool(1, device="npu")
    processes.run(let_prefixes_fail, True)
    try:
        repeated = train(random_run(tmp_path, **{**settings, "output_dir": tmp_path / "repeated"}))
        unasked = random_run(tmp_path, **{**settings, "output_dir": tmp_path / "unasked", "probe_share_prompt": False})
        with pytest.raises(AssertionError, match="Sq and Skv must be equal"):
            train(unasked)
    finally:
        # The failure has ended the processes; new ones have intact attention.
        assert pool(1, device="npu") is not processes
    assert_same_run(repeated, shared, FULL, set(COMPARED) & set(shared[0]))
    assert repeated[0]["tokens_computed"] > shared[0]["tokens_computed"]


@pytest.mark.parametrize("layout", ["EP2", "TP2 EP2"])
@pytest.mark.parametrize("family", ["qwen3_moe", "glm4_moe"])
def test_gradients_of_experts_on_npu_are_those_of_hugging_face(family: str, layout: str, tmp_path: Path) -> None:
    folder = save_tiny_model(family, tmp_path / "weights")
    model = experts.load(folder)
    experts.hf_gradients(model)
    expected = experts.gradients_by_stored_name(model, tmp_path / "expected")
    processes = pool(2, device="npu")
    before = min(processes.run(number_of_calls))
    tp = {"tp": 2, "sequence_parallel": True} if layout == "TP2 EP2" else {}
    job = Job(folder, ep=2, **tp)
    processes.run(gradient_job, job, experts.test_batch(), tmp_path / "gradient")
    assert_same_tensors(read_tensors(tmp_path / "gradient"), expected)
    for calls in processes.run(calls_since, before):
        products = [options for name, options in calls if name == "npu_grouped_matmul"]
        # Two products of a layer, each with a gradient by its rows and one by its matrices.
        assert [options["group_type"] for options in products].count(2) == len(products) / 3 > 0


@pytest.mark.parametrize("layout", ["EP2", "TP2×EP2"])
def test_training_of_experts_on_npu_follows_the_recording(layout: str, tmp_path: Path) -> None:
    metrics = train(run_of("qwen3_moe_aux", layout, tmp_path, **NPU))
    compare("qwen3_moe_aux", metrics, tmp_path / "checkpoints")
