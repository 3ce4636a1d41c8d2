"""The fused head over the reference torch_npu 2.13: the same scores and gradients, used only where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.npu_facts import V27, V213
from tests.support.processes import PoolGroup, pool
from tests.support.runs import train
from tests.unit.models import fused_head_jobs as jobs
from tests.unit.models.head_jobs import Case
from tests.unit.models.test_chunked_logprob_head import by_definition
from tests.unit.workers.pairs import random_run
from tests.unit.workers.rollouts import write_inputs

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

NPU = {"device": "npu", "distributed_backend": "auto", "bf16": True}


def case() -> Case:
    """Rows in bfloat16 over a vocabulary of 530, padded to 536; labels at both ends of each share of 268."""
    draw = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(19, 32, generator=draw), torch.randn(536, 32, generator=draw) / 2
    labels = torch.randint(0, 530, (19,), generator=draw)
    labels[:6] = torch.tensor([0, 267, 268, 529, 268, 0])
    upstream = torch.randn(19, generator=draw)
    return jobs.cast(Case(hidden, weight, labels, upstream, 530), torch.bfloat16)


@pytest.mark.parametrize("size", [1, 2])
def test_it_scores_as_the_plain_head_does(size: int) -> None:
    inputs = case()
    exact = by_definition(inputs)
    for end_belongs in (False, True):
        outcomes = pool(size, device="npu").run(jobs.scored, inputs, end_belongs)
        for rank, one in enumerate(outcomes):
            assert one.calls == [jobs.FORWARD, jobs.BACKWARD]
            rows = slice(rank * 536 // size, (rank + 1) * 536 // size)
            torch.testing.assert_close(one.fused.columns.double(), exact.columns[:, :1], rtol=0, atol=2e-5)
            for ours, theirs, definition in (
                (one.fused.hidden_grad, one.plain.hidden_grad, exact.hidden_grad),
                (one.fused.weight_grad, one.plain.weight_grad, exact.weight_grad[rows]),
            ):
                # Rounded once to bfloat16 on each share; the plain head rounds its logits too.
                scale = float(definition.abs().max())
                assert float((ours - definition).abs().max()) < 2**-7 * scale
                assert float((ours.float() - theirs.float()).abs().max()) < 2**-5 * scale
            torch.testing.assert_close(one.fused.columns, one.plain.columns, rtol=0, atol=0.05)
        assert not outcomes[-1].fused.weight_grad[-6:].any(), "padding"


@pytest.mark.parametrize(
    ("version", "settings", "fuses"),
    [
        (V213, {}, True),
        (V27, {}, False),
        (V213, {"bf16": False}, False),
        (V213, {"log_token_statistics": True}, False),
        (V213, {"use_weighting": True}, False),
        (V213, {"lora_target_modules": ["linear_qkv"]}, False),
    ],
)
def test_it_is_used_where_the_operators_are_and_nothing_else_is_requested(
    version: str, settings: dict[str, Any], fuses: bool, tmp_path: Path
) -> None:
    weights = write_inputs(tmp_path)
    given = {"random_init": False, "finetune": True, "load": weights, "log_token_statistics": False}
    group = PoolGroup(random_run(tmp_path, **{**given, **NPU, **settings}), 1)
    assert group.inspect(jobs.decided, (version,), None) == [(fuses, [])]
    group.leave()


def test_processes_of_different_versions_agree_to_do_without(tmp_path: Path) -> None:
    group = PoolGroup(random_run(tmp_path, (1, 1, 2), log_token_statistics=False, **NPU), 2)
    (fuses, warnings), (other_fuses, other_warnings) = group.inspect(jobs.decided, (V213, V27), None)
    group.leave()
    assert not fuses and not other_fuses
    assert "another process lacks the device's fused log-probability head" in warnings[0] and not other_warnings


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuses", "it fails: this device has no such kernel"),
        ("sums off", "its result is off by"),
        ("mask turned", "its gradient of hidden rows is off by"),
    ],
)
def test_the_plain_head_scores_where_a_trial_fails(fault: str, reason: str, tmp_path: Path) -> None:
    group = PoolGroup(random_run(tmp_path, log_token_statistics=False, **NPU), 1)
    ((fuses, warnings),) = group.inspect(jobs.decided, (V213,), fault)
    group.leave()
    assert not fuses
    assert f"actor: the check of the device's fused log-probability head failed: {reason}" in warnings[0]
    assert warnings[1] == "actor: using the plain head"


def test_training_with_it_stays_near_training_without(tmp_path: Path) -> None:
    settings = {**NPU, "log_token_statistics": False, "train_iters": 2, "lr": 1e-3}
    plain = train(random_run(tmp_path, **settings))
    processes = pool(1, device="npu")
    processes.run(jobs.follow, V213)
    try:
        fused = train(random_run(tmp_path, **{**settings, "output_dir": tmp_path / "fused"}))
    finally:
        processes.run(jobs.follow, V27)
    assert {jobs.FORWARD, jobs.BACKWARD} <= processes.run(jobs.called_operators)[0]
    for one, other in zip(fused, plain, strict=True):
        for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
            # The plain head rounds its logits, of some nats, to bfloat16: half a unit is 2**-9 of them, for each token.
            assert one[name] == pytest.approx(other[name], rel=2e-2, abs=2e-2), name
