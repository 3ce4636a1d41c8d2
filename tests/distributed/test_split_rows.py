"""Context parallelism in complete runs: every metric is that of one process, with evaluation and token statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.closeness import FULL, STEADY, assert_same_run
from tests.support.runs import Layout, train
from tests.unit.workers.pairs import random_run

pytestmark = [pytest.mark.distributed, pytest.mark.numerics]

KEYS: dict[str, Any] = {
    "train_iters": 3, "global_batch_size": 4, "log_token_statistics": True, "reference": "live",
    "split": "80,20,0", "eval_interval": 3, "eval_iters": 1, **STEADY,
}  # fmt: skip
LOSSES: dict[str, dict[str, Any]] = {
    "weighted by the policy": {"use_weighting": True, "ld_alpha": 0.3, "pref_ftx": 0.1},
    "of the full step": {"dpo_loss_type": ["sigmoid", "sft"], "loss_weights": [1, 0.5], "beta_dpo_alpha": 0.6},
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("layout", "micro_batch_size"), [((1, 1, 1), 4), ((1, 1, 2), 1)], ids=str)
def test_metrics_are_those_of_one_process(loss: str, layout: Layout, micro_batch_size: int, tmp_path: Path) -> None:
    keys = {**KEYS, **LOSSES[loss], "micro_batch_size": micro_batch_size}
    alone = train(random_run(tmp_path, **keys, output_dir=tmp_path / "alone"))
    split = train(random_run(tmp_path, layout, **keys, context_parallel_size=2, output_dir=tmp_path / "split"))
    assert {"entropy", "nll", "logits/chosen"} <= set(alone[0]) and any(key.startswith("eval/") for key in alone[-1])
    assert_same_run(split, alone, FULL, but=("micro_batches", "tokens_computed"))
    for one, other in zip(alone, split, strict=True):
        assert one.keys() == other.keys()
        # Rows are padded to what the ranks divide.
        assert one["tokens_computed"] <= other["tokens_computed"] <= one["tokens_computed"] + 4
