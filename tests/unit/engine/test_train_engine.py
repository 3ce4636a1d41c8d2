"""A training step: splits change neither gradient nor norm nor update; norms do not decay; scoring leaves no trace."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mindspeed_dpo.engine.forward_backward import loss_scale
from tests.support.processes import pool
from tests.unit.engine import checkpoint_jobs
from tests.unit.engine import engine_jobs as jobs
from tests.unit.engine.engine_jobs import MODEL, Setup

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("size", [2, 3, 4])
def test_gradient_and_loss_do_not_depend_on_the_micro_batches(size: int) -> None:
    ((expected, loss),) = pool(1).run(jobs.gradient_and_loss, Setup(micro_batch_size=1))
    ((found, same_loss),) = pool(1).run(jobs.gradient_and_loss, Setup(micro_batch_size=size))
    assert same_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        assert gradient.norm() > 1e-4, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_a_micro_batch_is_packed_after_those_before_it_are_on_their_way() -> None:
    assert pool(1).run(jobs.order_of_work) == [["packed", "computed"] * jobs.BATCH.num_prompts]


def test_accumulating_again_replaces_the_gradient() -> None:
    ((once, _),) = pool(1).run(jobs.gradient_and_loss, Setup())
    ((twice, _),) = pool(1).run(jobs.gradient_and_loss, Setup(), 2)
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_replicas_share_one_gradient_and_divide_the_loss() -> None:
    ((alone, loss),) = pool(1).run(jobs.gradient_and_loss, Setup())
    replicas = pool(2).run(jobs.gradient_and_loss, Setup())
    assert sum(part for _, part in replicas) == pytest.approx(loss, rel=1e-5)
    for found, _ in replicas:
        for name, gradient in alone.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("processes", "setup"),
    [
        (2, {"tp": 2}),
        (2, {"pp": 2}),
        (2, {}),
        (2, {"distributed_optimizer": True}),
        (4, {"tp": 2, "distributed_optimizer": True}),
        (2, {"cp": 2}),
        (4, {"cp": 2, "distributed_optimizer": True}),
    ],
    ids=[
        "TP2",
        "PP2",
        "DP2",
        "DP2 with sharded optimizer",
        "TP2 DP2 with sharded optimizer",
        "CP2",
        "CP2 DP2 with sharded optimizer",
    ],
)
@pytest.mark.parametrize("clip_grad", [0.05, 0.0], ids=["clipped", "not clipped"])
def test_norms_and_updates_equal_those_of_one_process(
    processes: int, setup: dict[str, int], clip_grad: float, tmp_path: Path
) -> None:
    # Pipeline stages draw other random weights, so that layouts start from the checkpoint of one process.
    start = Setup(clip_grad=clip_grad)
    pool(1).run(checkpoint_jobs.norms_and_weights, start, 1, tmp_path / "start")
    (expected,) = pool(1).run(checkpoint_jobs.norms_going_on, start, tmp_path / "start", tmp_path / "one")
    found = pool(processes).run(
        checkpoint_jobs.norms_going_on, Setup(clip_grad=clip_grad, **setup), tmp_path / "start", tmp_path / "many"
    )
    assert min(expected) > 0.06
    assert found == [pytest.approx(expected, rel=2e-5)] * processes
    one, many = (checkpoint_jobs.read_tensors(tmp_path / name / "iter_0000004") for name in ("one", "many"))
    for name in one:
        rows = MODEL.vocab_size if name.endswith(("word_embeddings.weight", "output_layer.weight")) else None
        torch.testing.assert_close(
            many[name][:rows], one[name][:rows], rtol=2e-3, atol=2e-5, msg=lambda t, n=name: n + t
        )


@pytest.mark.parametrize(
    ("processes", "setup"),
    [
        (1, {}),
        (1, {"bf16": True}),
        (2, {"distributed_optimizer": True}),
        (2, {"bf16": True, "distributed_optimizer": True}),
    ],
    ids=["float32", "bfloat16", "sharded", "bfloat16 sharded"],
)
def test_an_offloaded_optimizer_state_updates_alike_and_is_resumed_alike(
    processes: int, setup: dict[str, bool], tmp_path: Path
) -> None:
    found = []
    for offload in (False, True):
        asked, start, end = Setup(offload=offload, **setup), tmp_path / f"{offload}", tmp_path / f"{offload} on"
        norms = pool(processes).run(checkpoint_jobs.norms_and_weights, asked, 1, start)
        norms += pool(processes).run(checkpoint_jobs.norms_going_on, asked, start, end)
        found.append((norms, checkpoint_jobs.read_tensors(end / "iter_0000004")))
    (norms, tensors), (same_norms, same_tensors) = found
    assert same_norms == norms and len(tensors) >= 40
    assert all(torch.equal(same_tensors[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_an_offloaded_optimizer_state_is_on_the_device_for_the_update_alone(bf16: bool) -> None:
    ((moved, staying),) = pool(1).run(jobs.state_by_phase, Setup(bf16=bf16, offload=True))
    # Under float32 the master is the model's own parameter.
    own = {"fp32_param"} if bf16 else set()
    assert (moved, staying) == ({"exp_avg", "exp_avg_sq"} | own, {"fp32_param"} - own)
    ((moved, staying),) = pool(1).run(jobs.state_by_phase, Setup(bf16=bf16))
    assert (moved, staying) == (set(), {"fp32_param", "exp_avg", "exp_avg_sq"})


def test_norms_and_biases_are_not_decayed_and_matrices_shrink_by_the_rate() -> None:
    (parameters,) = pool(1).run(jobs.decayed, 0.5, 0.1)
    spared = {name for name in parameters if name.endswith("bias") or "norm" in name}
    assert len(spared) == 2 * 3 + 1
    for name, (before, after) in parameters.items():
        expected = before if name in spared else before * (1 - 0.1 * 0.5)
        torch.testing.assert_close(after, expected, rtol=1e-6, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("setup", [Setup(), Setup(bf16=True)], ids=["float32", "bfloat16"])
def test_a_gradient_that_is_not_finite_leaves_weights_and_optimizer_alone(setup: Setup) -> None:
    ((norm, changed, after),) = pool(1).run(jobs.after_a_broken_gradient, setup)
    assert not math.isfinite(norm) and not changed
    assert [after] == [one[1:] for one in pool(1).run(jobs.norms, setup, 3)]


@pytest.mark.parametrize("setup", [Setup(), Setup(bf16=True)], ids=["float32", "bfloat16"])
def test_scoring_leaves_no_trace(setup: Setup) -> None:
    ((columns, facts),) = pool(1).run(jobs.scores, setup, 1)
    assert facts == {"same": True, "requires_grad": False}
    assert [column.shape for column in columns] == [(4, 1), (4, 1), (4, 1), (4, 1)]
    assert {column.dtype for column in columns} == {torch.float32}


def test_the_loss_scale_undoes_what_schedule_and_wrapper_divide_by() -> None:
    # The schedule divides by 3 micro-batches, the wrapper by 2 replicas; what is left is the mean over 12 pairs.
    assert loss_scale(num_micro_batches=3, data_parallel_size=2, num_pairs=12) / 3 / 2 == pytest.approx(1 / 12)
