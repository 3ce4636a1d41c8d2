"""The best checkpoint, patience, and which checkpoints stay."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindspeed_dpo.engine.checkpoints.checkpoint_retention import BEST, saved_iterations
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import METADATA, iteration_dir
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.early_stopping import BestMetricRule, EvaluationHistory
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.resuming.resume import ResumePoint
from tests.unit.trainers.fakes import FakeRoles, trainer
from tests.unit.workers.pairs import random_run

LOSS = "eval/loss"
NAN = float("nan")


class CheckpointWriter(FakeRoles):
    """Writes the file that identifies a checkpoint folder."""

    root: Path

    def save(self, iteration: int, metadata: Mapping[str, Any], prefetched: None = None) -> str:
        folder = iteration_dir(self.root, iteration)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METADATA).write_text(json.dumps(metadata))
        return super().save(iteration, metadata)


def run_with(
    losses: list[float],
    rule: BestMetricRule,
    root: Path,
    steps: int = 0,
    first: int = 0,
    memory: EvaluationHistory | None = None,
    **schedule: Any,
) -> tuple[CheckpointWriter, Any]:
    roles = CheckpointWriter(eval_losses=losses)
    roles.root = root
    loop_run = trainer(roles, LoopSchedule(first, steps or first + len(losses), eval_interval=1, **schedule))
    loop_run.checkpoint_policy = CheckpointPolicy(rule, root, memory or EvaluationHistory())
    return roles, loop_run


def best(root: Path) -> dict[str, Any]:
    actual: dict[str, Any] = json.loads((root / BEST).read_text())
    return actual


def test_the_best_is_saved_at_its_step_and_named(tmp_path: Path) -> None:
    roles, loop_run = run_with([0.6, 0.7, 0.5, 0.5, NAN], BestMetricRule(LOSS), tmp_path)
    assert loop_run.fit() == 5
    assert roles.done("save") == [1, 3, 5]
    assert best(tmp_path) == {
        "metric": LOSS, "mode": "min", "step": 3, "value": 0.5, "checkpoint": "iter_0000003"
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [BEST]


def test_the_largest_is_best_where_configured(tmp_path: Path) -> None:
    _, loop_run = run_with([0.6, 0.7, 0.5], BestMetricRule(LOSS, is_min=False), tmp_path)
    loop_run.fit()
    assert (best(tmp_path)["step"], best(tmp_path)["mode"]) == (2, "max")


@pytest.mark.parametrize(
    ("losses", "rule", "last"),
    [
        ([0.9, 0.8, 0.8, 0.81, 0.1], BestMetricRule(LOSS, patience=2), 4),
        ([0.9, 0.8, 0.85, 0.7, 0.75, 0.6], BestMetricRule(LOSS, patience=2), 8),
        ([0.9, 0.85, 0.79, 0.75, 0.71], BestMetricRule(LOSS, patience=2, min_delta=0.1), 5),
        ([0.9, 0.85, 0.81, 0.1, 0.1], BestMetricRule(LOSS, patience=2, min_delta=0.1), 3),
        ([1.0, 0.75, 0.5, 0.1], BestMetricRule(LOSS, patience=2, min_delta=0.5), 3),
        ([NAN, NAN, 0.1], BestMetricRule(LOSS, patience=2), 2),
        ([0.1, 0.2, 0.3], BestMetricRule(LOSS, is_min=False, patience=1), 4),
    ],
)
def test_a_run_ends_when_patience_runs_out(
    losses: list[float], rule: BestMetricRule, last: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        roles, loop_run = run_with(losses, rule, tmp_path, steps=20)
        roles.eval_losses += [9.0 if rule.is_min else -9.0] * 20
        done = loop_run.fit()
    assert done == last and loop_run.is_complete(done) and roles.done("save")[-1] == done
    assert sum("stopping early: eval/loss" in line for line in caplog.messages) == 1


VALUES = st.lists(st.sampled_from([0.1, 0.2, 0.25, 0.3, 0.5, NAN]), min_size=1, max_size=12)


@given(values=VALUES, cut=st.integers(0, 12), patience=st.integers(1, 4), delta=st.sampled_from([0.0, 0.06]))
def test_a_watch_that_continues_judges_as_if_it_had_never_stopped(
    values: list[float], cut: int, patience: int, delta: float
) -> None:
    rule = BestMetricRule(LOSS, patience=patience, min_delta=delta)
    complete, first = CheckpointPolicy(rule, Path("save")), CheckpointPolicy(rule, Path("save"))
    verdicts = []
    for step, value in enumerate(values, 1):
        verdicts.append((complete.update(step, {LOSS: value}), complete.should_stop))
        if step <= cut:
            first.update(step, {LOSS: value})
    second = CheckpointPolicy(rule, Path("save"), EvaluationHistory(**json.loads(json.dumps(first.progress()))))
    again = [(second.update(step, {LOSS: v}), second.should_stop) for step, v in enumerate(values[cut:], cut + 1)]
    assert again == verdicts[cut:] and second.history == complete.history


def test_a_resumed_run_stops_where_an_uninterrupted_one_stops(tmp_path: Path) -> None:
    losses, rule = [0.9, 0.5, 0.6, 0.55, 0.7, 0.1], BestMetricRule(LOSS, patience=3)
    complete, loop_run = run_with(losses, rule, tmp_path / "complete")
    assert loop_run.fit() == 5
    half, loop_run = run_with(losses[:3], rule, tmp_path / "half")
    loop_run.fit()
    rest, loop_run = run_with(
        losses[3:], rule, tmp_path / "half", first=3, memory=EvaluationHistory(**half.progress[3])
    )
    assert loop_run.fit() == 5 and rest.done("save") == [5]
    assert best(tmp_path / "half") == best(tmp_path / "complete")
    paths = {"folder": None}
    assert {**rest.progress[5], **paths} == {**complete.progress[5], **paths}
    over, loop_run = run_with([0.0], rule, tmp_path / "half", first=5, memory=EvaluationHistory(**rest.progress[5]))
    assert loop_run.fit() == 5 and over.calls == [] and loop_run.is_complete(5)


@pytest.mark.parametrize(
    ("keep", "stay"), [(1, [2, 6]), (2, [2, 5, 6]), (9, [1, 2, 3, 4, 5, 6]), (None, [1, 2, 3, 4, 5, 6])]
)
def test_the_newest_and_the_best_stay(keep: int | None, stay: list[int], tmp_path: Path) -> None:
    _, loop_run = run_with([0.9, 0.1, 0.5, 0.5, 0.5, 0.5], BestMetricRule(LOSS, keep=keep), tmp_path, save_interval=1)
    loop_run.fit()
    assert saved_iterations(tmp_path) == stay
    assert {path.name for path in tmp_path.iterdir()} == {BEST, *(f"iter_{n:07d}" for n in stay)}


def test_nothing_goes_before_a_newer_checkpoint_is_complete(tmp_path: Path) -> None:
    """The checkpoint that a run resumes from stays until then; what lies beyond it is of another life."""
    CheckpointWriter.root = tmp_path
    before = CheckpointWriter()
    for iteration in (2, 4, 8):
        before.save(iteration, {"progress": None})
    (tmp_path / "iter_0000001").mkdir()
    roles, loop_run = run_with([0.5] * 2, BestMetricRule(keep=1), tmp_path, first=4, save_interval=2)
    seen: list[list[int]] = []
    roles.during_update = lambda step: seen.append(saved_iterations(tmp_path))
    loop_run.fit()
    assert seen == [[2, 4, 8], [2, 4, 8]] and saved_iterations(tmp_path) == [6, 8]
    assert (tmp_path / "iter_0000001").is_dir(), "what is no checkpoint of ours is left alone"


def continued(tmp_path: Path, memory: EvaluationHistory, folder: Path, **loop: Any) -> CheckpointPolicy:
    run = random_run(tmp_path, split="60,40,0", eval_interval=1, best_metric=LOSS, early_stop_patience=3, **loop)
    continuation = ResumePoint(folder, 9, True, True, {"progress": asdict(memory)})
    return CheckpointPolicy.of(run, continuation)


def test_the_best_is_located_where_folders_were_moved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = EvaluationHistory(LOSS, 5, 0.25, str(tmp_path / "gone" / "iter_0000005"), 0.25, 1)
    moved = tmp_path / "moved"
    CheckpointWriter.root = moved
    CheckpointWriter().save(5, {"progress": None})
    watch = continued(tmp_path, copy.copy(memory), moved / "iter_0000009")
    assert replace(watch.history, folder=None) == replace(memory, folder=None)
    assert best(watch.save)["checkpoint"] == str(moved / "iter_0000005")
    lost = continued(tmp_path, copy.copy(memory), tmp_path / "nowhere" / "iter_0000009")
    assert lost.history.value == 0.25 and lost.history.folder is None
    assert any("no longer exists" in line for line in caplog.messages)


def test_another_metric_starts_a_new_history(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory = EvaluationHistory("eval/rewards/margins", 5, 0.25, None, 0.25, 1)
    assert continued(tmp_path, memory, tmp_path).history == EvaluationHistory()
    assert any("starting a new search for the best checkpoint" in line for line in caplog.messages)
