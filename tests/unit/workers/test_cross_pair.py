"""Losses that depend on all pairs of a step, or on the tokens of a pair, are the same under every split of the step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import read_metadata
from tests.support.closeness import FULL, STEADY, assert_same_run
from tests.support.processes import PoolGroup
from tests.support.runs import Layout
from tests.unit.workers.pairs import random_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

ROWS = np.array([3, 0, 4, 2])
REFERENCES = np.array([[-30, -20], [-10, -11], [-25, -40], [-7, -3]], np.float32)
LOSSES: dict[str, dict[str, Any]] = {
    "aot": {"dpo_loss_type": "aot"},
    "aot_unpaired": {"dpo_loss_type": "aot_unpaired", "dpo_label_smoothing": 0.1},
    "sft": {"dpo_loss_type": "[sigmoid,sft]", "loss_weights": "[1,0.5]"},
    "cpo": {"dpo_loss_type": "cpo"},
    "beta-DPO": {"beta_dpo_alpha": 0.6},
    "beta-DPO's filter": {"beta_dpo_alpha": 0.6, "beta_dpo_selection_ratio": 0.5},
    "LD-DPO": {"ld_alpha": 0.3},
    "WPO": {"use_weighting": True},
}
SPLITS: dict[str, tuple[Layout, int | None]] = {
    "micro-batches of 2": ((1, 1, 1), 2),
    "two replicas": ((1, 1, 2), 1),
    "two replicas with token budgets": ((1, 1, 2), None),
    "two stages": ((1, 2, 1), 1),
    "two shards": ((2, 1, 1), 4),
}
TOKENS = 14
"""Of a micro-batch where no number of pairs is given: for two of the pairs, or one."""
UNLIKE = {"tokens_computed", "micro_batches"}


def learn(folder: Path, layout: Layout, size: int | None, **settings: Any) -> tuple[list[dict[str, float]], np.ndarray]:
    """Metrics of two steps, and log-probabilities afterwards."""
    settings |= {**STEADY, "micro_batch_size": size, "micro_batch_tokens": None if size else TOKENS}
    group, actor, _ = build_actor(folder, layout, **settings)
    metrics = [actor.update(step, ROWS, REFERENCES) for step in range(2)]
    logps = actor.log_probs(ROWS)
    group.leave()
    return metrics, logps


def build_actor(folder: Path, layout: Layout, **settings: Any) -> tuple[PoolGroup, ActorGroup, RunConfig]:
    run = random_run(folder, layout, global_batch_size=4, lr_warmup_iters=0, **settings)
    group = PoolGroup(run, layout[0] * layout[1] * layout[2])
    group.build("actor")
    return group, ActorGroup(group), run


@pytest.mark.parametrize("name", LOSSES)
def test_no_split_of_a_step_changes_it(name: str, tmp_path: Path) -> None:
    complete, logps = learn(tmp_path, (1, 1, 1), 4, **LOSSES[name])
    # Two stages draw other random weights, so they are compared with themselves.
    for split, (layout, size) in SPLITS.items():
        expected = learn(tmp_path, layout, 4, **LOSSES[name]) if layout[1] > 1 else (complete, logps)
        actual = learn(tmp_path, layout, size, **LOSSES[name])
        assert_same_run(actual[0], expected[0], FULL, but=UNLIKE)
        np.testing.assert_allclose(actual[1], expected[1], rtol=FULL.limit("later"), err_msg=split)


def test_beta_goes_on_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    group, actor, _ = build_actor(tmp_path, (1, 2, 1), beta_dpo_alpha=0.6, beta_dpo_selection_ratio=0.5)
    actor.update(0, ROWS, REFERENCES)
    folder = actor.save(1, {})
    expected = actor.update(1, ROWS, REFERENCES)
    saved = read_metadata(Path(folder))
    assert saved["usual_margin"] != 0.0 and saved["usual_margin_std"] > 0.0 and expected["beta_dpo/selected"] == 0.5
    group.build("actor")
    actor.load(folder, True, True)
    actual = actor.update(1, ROWS, REFERENCES)
    assert {**actual, "memory/peak_bytes": 0} == {**expected, "memory/peak_bytes": 0}


def test_every_optimizer_step_draws_pairs_of_its_own(tmp_path: Path) -> None:
    """Policy and reference stay equal, so that chance alone selects, and the gradient says which pairs."""
    _, actor, _ = build_actor(tmp_path, (1, 1, 1), beta_dpo_selection_ratio=0.5, lr=0.0, min_lr=0.0)
    references = actor.log_probs(ROWS)
    assert len({actor.update(step, ROWS, references)["grad_norm"] for step in range(6)}) > 1
