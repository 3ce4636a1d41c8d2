"""The table of metrics says what runs write: every row is written by one, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindspeed_dpo.observability.metric_names import EVAL_PREFIX, LOSS_TERM_PREFIX, METRICS, metric
from tests.distributed.test_expert_runs import run_of
from tests.support.judge_models import judge_engine, save_judge_folder
from tests.support.online_inputs import online_inputs
from tests.support.runs import tiny_online_run, train
from tests.support.vllm_python import stand_in_python
from tests.unit.workers.pairs import random_run

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_every_row_of_the_table_is_written_by_a_run_and_nothing_else_is(tmp_path: Path) -> None:
    keys = {"micro_batch_size": None, "micro_batch_tokens": 16, "split": "60,40,0", "eval_interval": 2, "pref_ftx": 0.1}
    keys["beta_dpo_selection_ratio"] = 0.8
    offline = random_run(tmp_path, train_iters=2, **keys, output_dir=tmp_path / "offline")
    inputs = online_inputs(tmp_path / "online")
    keys = {**inputs.keys, "train_iters": 1, "output_dir": tmp_path / "out", "split": "80,20,0", "eval_interval": 1}
    keys |= {"reward_functions": None, "judge_model": save_judge_folder(tmp_path / "judge"), "judge_max_new_tokens": 50}
    keys |= {"judge_vllm": judge_engine(stand_in_python(tmp_path), ["[[2]]", "[[5]]"])}
    experts = run_of(tmp_path / "experts", train_iters=1, router_aux_loss_coef=0.1)
    (tmp_path / "reward_model").mkdir()
    reward_model = random_run(tmp_path / "reward_model", stage="rm", train_iters=1, split="60,40,0", eval_interval=1)
    runs = (offline, experts, reward_model, tiny_online_run(**keys))
    written = {name for run in runs for record in train(run) for name in record}
    for name in written:
        metric(name)
    assert {"loss/sigmoid", "loss/pref_ftx", "eval/loss/pref_ftx", "eval/nll", "eval/win_rate"} <= written
    names = {name.removeprefix(EVAL_PREFIX) for name in written}
    assert {name for name in names if not name.startswith(LOSS_TERM_PREFIX)} == METRICS.keys()
    assert "eval/rewards/ece" in written and "rewards/ece" not in written
