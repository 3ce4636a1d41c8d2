"""A training step: splits change neither gradient nor norm nor update; norms do not decay; scoring leaves no trace."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.engine.forward_backward import loss_scale
from tests.support.closeness import (
    ENGINE,
    ROUNDING,
    STEADY,
    assert_same_run,
    assert_same_tensors,
    assert_same_update,
)
from tests.support.processes import pool
from tests.unit.engine import checkpoint_jobs
from tests.unit.engine import engine_jobs as jobs
from tests.unit.engine.engine_jobs import MODEL, Setup

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_gradient_and_loss_do_not_depend_on_the_micro_batches(size: int) -> None:
    ((expected, loss),) = pool(1).run(jobs.gradient_and_loss, Setup(micro_batch_size=1))
    ((actual, same_loss),) = pool(1).run(jobs.gradient_and_loss, Setup(micro_batch_size=size))
    assert same_loss == pytest.approx(loss, rel=ROUNDING)
    assert all(gradient.norm() > 1e-4 for gradient in expected.values())
    assert_same_tensors(actual, expected)


def test_a_micro_batch_is_packed_after_those_before_it_are_on_their_way() -> None:
    assert pool(1).run(jobs.order_of_work) == [["packed", "computed"] * jobs.BATCH.num_prompts]


def test_accumulating_again_replaces_the_gradient() -> None:
    ((once, _),) = pool(1).run(jobs.gradient_and_loss, Setup())
    ((twice, _),) = pool(1).run(jobs.gradient_and_loss, Setup(), 2)
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_replicas_share_one_gradient_and_divide_the_loss() -> None:
    ((alone, loss),) = pool(1).run(jobs.gradient_and_loss, Setup())
    replicas = pool(2).run(jobs.gradient_and_loss, Setup())
    assert sum(part for _, part in replicas) == pytest.approx(loss, rel=ROUNDING)
    for actual, _ in replicas:
        assert_same_tensors(actual, alone)


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
    start = Setup(clip_grad=clip_grad, adam_eps=STEADY["adam_eps"])
    pool(1).run(checkpoint_jobs.norms_and_weights, start, 1, tmp_path / "start")
    (expected,) = pool(1).run(checkpoint_jobs.norms_going_on, start, tmp_path / "start", tmp_path / "one")
    job = checkpoint_jobs.norms_going_on, replace(start, **setup), tmp_path / "start", tmp_path / "many"
    actual = pool(processes).run(*job)
    assert min(expected) > 0.06
    for norms in actual:
        assert_same_run(norms_of(norms), norms_of(expected), ENGINE)
    before = checkpoint_tensors(tmp_path / "start" / "iter_0000001")
    one, many = (checkpoint_tensors(tmp_path / name / "iter_0000004") for name in ("one", "many"))
    weights = sorted(name for name in one if not name.startswith("optimizer."))
    assert_same_update(*([part[name] for name in weights] for part in (before, many, one)), ENGINE)
    moments, same = ({name: part[name] for name in part.keys() - set(weights)} for part in (one, many))
    assert_same_tensors(same, moments, bound=ENGINE.limit("update"))


def norms_of(values: list[float]) -> list[dict[str, float]]:
    return [{"grad_norm": value} for value in values]


def checkpoint_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint without the padding of the vocabulary."""
    padded = ("word_embeddings.weight", "output_layer.weight")
    tensors = checkpoint_jobs.read_tensors(folder)
    return {name: value[: MODEL.vocab_size] if name.endswith(padded) else value for name, value in tensors.items()}


def test_the_norm_of_many_numbers_is_exact_over_ranks_of_which_one_has_none() -> None:
    actual = pool(3).run(jobs.norm_of_many, 10_000_000)
    (exact,) = {exact for _, exact in actual}
    assert [norm for norm, _ in actual] == [pytest.approx(exact, rel=1e-6)] * 3


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
    actual = []
    for offload in (False, True):
        setup_with_offload, start, end = (
            Setup(offload=offload, **setup),
            tmp_path / f"{offload}",
            tmp_path / f"{offload} on",
        )
        norms = pool(processes).run(checkpoint_jobs.norms_and_weights, setup_with_offload, 1, start)
        norms += pool(processes).run(checkpoint_jobs.norms_going_on, setup_with_offload, start, end)
        actual.append((norms, checkpoint_jobs.read_tensors(end / "iter_0000004")))
    (norms, tensors), (same_norms, same_tensors) = actual
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
