"""A complete run on data that the repository makes: its metrics, its files, and the export of its checkpoint."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification

import convert_ckpt
from mindspeed_dpo.config.load import load_run
from mindspeed_dpo.data.datasets.preference_dataset import PreferenceDataset
from mindspeed_dpo.engine.checkpoints.checkpoint_retention import saved_iterations
from tests.end_to_end.conftest import OwnRun
from tests.support.closeness import SHIPPED, assert_same_run, is_of_the_clock
from tests.support.commands import run_here, succeed, training
from tests.support.conversions import assert_exported_completely, to_hf_arguments
from tests.support.metrics import read_metrics
from tests.support.recorded_pages import Page
from tests.support.terminals import COLUMNS, lines_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.numerics]


@pytest.fixture(scope="module")
def metrics(own_run: OwnRun) -> list[dict[str, float]]:
    """Of the run, step by step."""
    return read_metrics(own_run.output_dir / "metrics.jsonl")


def test_the_first_loss_is_ln_2_and_the_margin_rises(metrics: list[dict[str, float]]) -> None:
    assert [step["step"] for step in metrics] == list(range(1, 25))
    assert metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    thirds = [sum(step["rewards/margins"] for step in metrics[start : start + 8]) for start in (0, 8, 16)]
    assert thirds == sorted(thirds) and thirds[2] > thirds[0] + 1


def test_held_out_pairs_are_measured_at_the_interval_and_at_the_end(metrics: list[dict[str, float]]) -> None:
    measured = [step for step in metrics if any(name.startswith("eval/") for name in step)]
    assert [step["step"] for step in measured] == [8, 16, 24]
    assert measured[-1]["eval/loss"] < measured[0]["eval/loss"] < math.log(2)
    assert {"eval/rewards/margins", "eval/rewards/accuracies"} <= measured[0].keys()


def test_everything_of_a_run_lies_in_its_folder(own_run: OwnRun, metrics: list[dict[str, float]]) -> None:
    folder = own_run.output_dir
    for log in ("driver_0.log", "actor_rollout_0.log", "actor_rollout_1.log"):
        assert (folder / "logs" / log).read_text().strip(), log
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == ["hf", "iter_0000012", "iter_0000024", "latest_checkpointed_iteration.txt"]
    assert (folder / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "24"
    board = {name: EventAccumulator(str(folder / "tensorboard" / name)).Reload() for name in ("train", "eval")}
    losses = [event.value for event in board["train"].Scalars("1 Preferences/loss")]
    assert losses == pytest.approx([step["loss"] for step in metrics], rel=1e-6)
    assert [event.step for event in board["eval"].Scalars("1 Preferences/loss")] == [8, 16, 24]
    assert [event.step for event in board["train"].Tensors("evaluated pairs/text_summary")] == [8, 16, 24]
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    page.assert_is_self_contained()
    assert "step 24 of 24" in page.text and "plan: dpo, 24 steps" in page.text and page.legends[:2] == ["train", "eval"]
    assert {"Loss", "Lengths of the training data", "Reward margins of the evaluation at step 24"} <= set(page.titles)
    assert not list(folder.rglob("*.partial")) and not list(folder.rglob("*.tmp"))


def test_a_terminal_shows_a_row_for_each_step_and_the_log_the_complete_line(own_run: OwnRun) -> None:
    lines = lines_of(own_run.screen)
    rows = [line.split() for line in lines if re.match(r" +(\d+/24|eval) ", line)]
    steps = [row[0] for row in rows]
    assert [step for step in steps if step != "eval"] == [f"{step}/24" for step in range(1, 25)]
    assert [steps[at - 1] for at, step in enumerate(steps) if step == "eval"] == ["8/24", "16/24", "24/24"]
    assert rows[0][1] == "0.6931" and max(map(len, lines)) <= COLUMNS and "iteration:" not in own_run.screen
    assert re.search(r"starting Ray +\d:\d\d:\d\d", own_run.screen)
    assert re.search(r"training +[━─]+ +\d+/24 +\d+% ", own_run.screen)
    log = (own_run.output_dir / "logs" / "driver_0.log").read_text()
    assert log.count("iteration: ") == 24 and "actor/pg_loss : 0.6931 | rewards/chosen" in log


def test_the_written_configuration_is_the_run(own_run: OwnRun) -> None:
    keys = {**own_run.keys, "sequence_parallel": True, "output_dir": own_run.output_dir}
    _, _, name, *overrides = training((2, 1, 1), **keys)
    again = load_run("config", config_dir=own_run.output_dir)
    assert again == load_run(name, overrides)


def test_the_result_is_a_hugging_face_model(own_run: OwnRun, tmp_path: Path) -> None:
    assert_exported_completely(own_run.output_dir / "checkpoints", tmp_path / "hf")
    run_here("examples/tiny/try_model.py", tmp_path / "hf")


def test_a_live_reference_on_its_own_pool_gives_the_numbers_of_the_cached_one(
    own_run: OwnRun, metrics: list[dict[str, float]], ray_address: str, tmp_path: Path
) -> None:
    keys = {**own_run.keys, "sequence_parallel": True, "train_iters": 6, "reference": "live", "output_dir": tmp_path}
    succeed(*training((2, 1, 1), **keys), "resource_pool.ref=[2]", f"training.ray_address={ray_address}")
    live = read_metrics(tmp_path / "metrics.jsonl")
    assert (tmp_path / "logs" / "ref_1.log").is_file()
    assert_same_run(live, metrics[:6], SHIPPED, [name for name in metrics[0] if not is_of_the_clock(name)])


def test_a_reward_model_ends_early_with_its_best_checkpoint_and_scores_the_same_in_transformers(
    own_run: OwnRun, ray_address: str, tmp_path: Path
) -> None:
    # By a mode in which lower is worse, the first of three evaluations is the best of a run that learns.
    keys = {
        **own_run.keys, "stage": "rm", "eval_interval": 2, "eval_data_path": own_run.pairs,
        "best_metric": "eval/given/loss", "best_metric_mode": "max", "early_stop_patience": 2,
        "keep_last_checkpoints": 1, "save_interval": 1, "output_dir": tmp_path,
    }  # fmt: skip
    text = succeed(*training((1, 1, 1), **keys), f"training.ray_address={ray_address}").text
    assert "stopping early: eval/given/loss has not improved" in text and "plan: rm, 24 steps" in text
    steps = read_metrics(tmp_path / "metrics.jsonl")
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    losses = [steps[number]["eval/given/loss"] for number in (1, 3, 5)]
    assert losses == sorted(losses, reverse=True) and losses[2] < losses[0] - 0.05
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert (best["step"], best["checkpoint"], best["mode"]) == (2, "iter_0000002", "max")
    assert saved_iterations(tmp_path / "checkpoints") == [2, 6]
    assert convert_ckpt.main([*to_hf_arguments(tmp_path / "checkpoints", tmp_path / "hf"), "--orm"]) == 0
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(report.values()) and model.config.num_labels == 1
    # The last evaluation is that of the last checkpoint: 4 batches of 8 pairs.
    dataset, margins = PreferenceDataset.open(str(own_run.pairs), seq_length=256), []
    for row in range(32):
        batch = dataset.batch([row])
        sequences = [torch.cat([batch.prompt_tokens, ids]).long()[None] for ids in batch.responses()[0]]
        with torch.no_grad():
            chosen, rejected = (model(ids).logits.item() for ids in sequences)
        margins.append(chosen - rejected)
    assert steps[-1]["eval/given/rewards/margins"] == pytest.approx(sum(margins) / 32, rel=1e-4)
