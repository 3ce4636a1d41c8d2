"""Micro-batches filled by tokens learn what micro-batches of one pair learn, under every layout and padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from tests.support.closeness import FULL, ROUNDING, assert_same_run, assert_same_tensors
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import random_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = np.array([3, 0, 4, 2])
REFERENCES = np.array([[-30, -20], [-10, -11], [-25, -40], [-7, -3]], np.float32)
ALONE: dict[str, Any] = {"micro_batch_size": 1}
# The pairs have 8, 7, 7 and 5 rows once packed.
FEW: dict[str, Any] = {"micro_batch_size": None, "micro_batch_tokens": 13}
NONE_FITS: dict[str, Any] = {"micro_batch_size": None, "micro_batch_tokens": 4}
PADDED = {**FEW, "micro_batch_tokens": 17, "pad_to_multiple_of": 5}
VIRTUAL = {"num_layers": 4, "num_layers_per_virtual_pipeline_stage": 1}
CASES: dict[str, tuple[Layout, int, dict[str, Any]]] = {
    "one replica": ((1, 1, 1), 1, FEW),
    "a budget for no pair": ((1, 1, 1), 1, NONE_FITS),
    "two replicas": ((1, 1, 2), 1, FEW),
    "two replicas with overlap": (
        (1, 1, 2), 1, {**FEW, "use_distributed_optimizer": True, "overlap_grad_reduce": True}
    ),
    "two stages": ((1, 2, 1), 1, FEW),
    "two stages, padded": ((1, 2, 1), 1, PADDED),
    # A stage in the middle gets messages from both sides.
    "three stages": ((1, 3, 1), 1, {**FEW, "num_layers": 3}),
    "two stages of two virtual ones": ((1, 2, 1), 1, {**FEW, **VIRTUAL}),
    "two shards, padded": ((2, 1, 1), 1, {**PADDED, "micro_batch_tokens": 20, "sequence_parallel": True}),
    "two parts of a row, padded": ((1, 1, 1), 2, {**PADDED, "micro_batch_tokens": 20}),
    "two stages of two shards": ((2, 2, 1), 1, {**FEW, "sequence_parallel": True}),
    "two stages of two parts": ((1, 2, 1), 2, FEW),
}  # fmt: skip
NOT_ALIKE = {"tokens_computed", "micro_batches", "micro_batch_fill"}


def gradient(colocated: ColocatedRoles) -> dict[str, Tensor]:
    """Of every parameter of a process, summed over the micro-batches and averaged over the replicas."""
    return {
        name: parameter.main_grad.clone()
        for name, parameter in colocated.roles["actor"].engine.model.named_parameters()
    }


def learn(folder: Path, layout: Layout, cp: int, **keys: Any) -> tuple[np.ndarray, dict[str, float], list[Any]]:
    """Log-probabilities, the metrics of a step, and the gradients of its processes."""
    run = random_run(folder, layout, global_batch_size=4, context_parallel_size=cp, clip_grad=0.0, **keys)
    group = PoolGroup(run, run.num_processes("actor"))
    group.build("actor")
    actor = ActorGroup(group)
    logps, metrics = actor.log_probs(ROWS), actor.update(0, ROWS, REFERENCES)
    gradients = group.inspect(gradient)
    group.leave()
    return logps, metrics, gradients


@pytest.mark.parametrize("case", CASES)
def test_a_budget_learns_what_single_pairs_learn(case: str, tmp_path: Path) -> None:
    layout, cp, keys = CASES[case]
    sharing = {key: value for key, value in keys.items() if not key.startswith(("micro_batch", "pad_to"))}
    logps, metrics, gradients = learn(tmp_path, layout, cp, **ALONE, **sharing)
    actual_logps, actual_metrics, actual_gradients = learn(tmp_path, layout, cp, **keys)
    np.testing.assert_allclose(actual_logps, logps, rtol=ROUNDING)
    assert_same_run([actual_metrics], [metrics], FULL, but=NOT_ALIKE)
    for expected, actual in zip(gradients, actual_gradients, strict=True):
        assert_same_tensors(actual, expected)


@pytest.mark.parametrize(
    ("keys", "passes", "rows"),
    [(ALONE, 4, 27), (FEW, 3, 27), (NONE_FITS, 4, 27), (PADDED, 2, 30)],
    ids=["single pairs", "budget", "a budget for no pair", "padded"],
)
def test_passes_and_what_fills_them_are_logged(keys: dict[str, Any], passes: int, rows: int, tmp_path: Path) -> None:
    _, metrics, _ = learn(tmp_path, (1, 1, 1), 1, **keys)
    assert (metrics["micro_batches"], metrics["tokens_computed"]) == (passes, rows)
    budget = keys.get("micro_batch_tokens")
    assert metrics.get("micro_batch_fill") == (pytest.approx(rows / passes / budget) if budget else None)


def test_a_pipeline_has_a_pass_for_each_stage(tmp_path: Path) -> None:
    everything = {"micro_batch_size": None, "micro_batch_tokens": 1000}
    assert learn(tmp_path, (1, 1, 1), 1, **everything)[1]["micro_batches"] == 1
    assert learn(tmp_path, (1, 2, 1), 1, **everything)[1]["micro_batches"] == 2
    # Where they are filled by pairs, only an interleaved pipeline needs them.
    assert learn(tmp_path, (1, 2, 1), 1, micro_batch_size=4)[1]["micro_batches"] == 1
    assert learn(tmp_path, (1, 2, 1), 1, micro_batch_size=4, **VIRTUAL)[1]["micro_batches"] == 2
