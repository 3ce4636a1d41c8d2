"""Evaluation of online runs with fake roles: when, of which prompts, under which names; kept responses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.trainers import reference_responses as kept
from mindspeed_dpo.trainers.checkpoint_policy import CheckpointPolicy
from mindspeed_dpo.trainers.early_stopping import BestMetricRule
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.online_evaluation import OnlineEvaluation
from mindspeed_dpo.trainers.resuming.resume import ResumePoint
from mindspeed_dpo.trainers.run_inputs import RunInputs, open_inputs
from mindspeed_dpo.workers.scorer import Scored, Verdicts
from tests.config_effects.comparison import prompts_with_text
from tests.unit.trainers.test_online_dpo import FakeRoles, trainer
from tests.unit.workers.rollouts import online_run

SETS = {"split": np.array([1, 3]), "chat": np.array([6])}


def greedy_of(rows: np.ndarray, last: int, version: int = 0) -> RolloutBatch:
    """The response to row r is [r, last]."""
    samples = PreferenceBatch.from_lists([[int(row), 1] for row in rows], [[[int(row), last]] for row in rows])
    return RolloutBatch(samples, torch.as_tensor(rows), torch.ones(len(rows), 1, dtype=torch.bool), version=version)


class Evaluated(FakeRoles):
    """The same, whose greedy responses end with the version, and score what they end with; row 3 has no score."""

    def generate_greedy(self, rows: np.ndarray, of_reference: bool = False) -> RolloutBatch:
        self.calls.append(("greedy", rows.tolist(), of_reference, self.version))
        return greedy_of(rows, 100 if of_reference else self.version, self.version)

    def score(self, rollouts: RolloutBatch) -> Scored:
        self.calls.append(("score greedy", rollouts.rows.tolist()))
        scores = [[float(response[-1]) for response in row] for row in rollouts.samples.responses()]
        scores = [[np.nan] * 2 if row == 3 else s for row, s in zip(rollouts.rows.tolist(), scores, strict=True)]
        return Scored(np.array(scores, np.float32))


def evaluated(roles: Evaluated, names: tuple[str, ...] = ("split",), batch_size: int = 8) -> OnlineEvaluation:
    references = {name: greedy_of(SETS[name], 1) for name in names}
    return OnlineEvaluation(roles, roles, references, batch_size, len(names) > 1)  # type: ignore[arg-type]


def test_new_weights_are_evaluated_at_the_interval_and_at_the_end_and_before_step_0(tmp_path: Path) -> None:
    roles = Evaluated()
    run = trainer(roles, LoopSchedule(0, 3, eval_interval=2, eval_at_start=True), tmp_path)
    run.evaluation = evaluated(roles)
    run.fit()
    assert roles.done("greedy") == [("greedy", [1, 3], False, version) for version in (0, 2, 3)]
    rates = {step: metrics["eval/win_rate"] for step, metrics in roles.logged.items() if "eval/win_rate" in metrics}
    assert rates == {0: 0.0, 2: 1.0, 3: 1.0}
    assert roles.logged[0].keys() == {
        "eval/win_rate", "eval/reward/score/mean", "eval/response_length/mean", "eval/val/contain_eos_token",
        "timing/eval",
    }  # fmt: skip
    assert roles.logged[2]["eval/reward/score/mean"] == 2.0


def test_texts_of_a_judge_model_without_a_verdict_are_counted_over_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    roles = Evaluated()
    score = roles.score
    monkeypatch.setattr(
        roles, "score", lambda some: replace(score(some), verdicts=Verdicts(2, unparsed=int(some.rows[0] == 3), cut=0))
    )
    metrics = evaluated(roles, batch_size=1).metrics()
    assert (metrics["eval/judge/unparsed"], metrics["eval/judge/cut"]) == (0.25, 0.0)


def test_several_sets_have_names_and_prompts_are_scored_in_batches() -> None:
    roles = Evaluated(version=1)
    metrics = evaluated(roles, ("split", "chat"), batch_size=1).metrics()
    assert roles.done("score greedy") == [("score greedy", [row]) for row in (1, 3, 6)]
    # Version 1 ties with the reference, whose responses end with 1.
    assert metrics["eval/split/win_rate"] == metrics["eval/chat/win_rate"] == 0.5


def test_the_best_win_rate_is_saved_and_ends_the_run_when_it_stays(tmp_path: Path) -> None:
    roles = Evaluated()
    run = trainer(roles, LoopSchedule(0, 9, eval_interval=1), tmp_path)
    run.evaluation = evaluated(roles)
    run.checkpoint_policy = CheckpointPolicy(BestMetricRule("eval/win_rate", is_min=False, patience=2), tmp_path)
    # 0.5 after one step, then 1.0 for good.
    assert run.fit() == 4
    assert [call[1] for call in roles.done("save")] == [1, 2, 4]


@pytest.fixture
def inputs(tmp_path: Path) -> RunInputs:
    return open_inputs(run_of(tmp_path))


def run_of(folder: Path, **settings: Any) -> Any:
    keys = {"data_path": prompts_with_text(), "split": "60,40,0", "eval_interval": 1, "lr_warmup_fraction": None}
    keys["reward_functions"] = ["tests.support.reward_functions.length"]
    return online_run(folder, (1, 1, 1), 1, **{**keys, **settings})


def test_responses_are_generated_once_by_the_policy_and_then_read(
    inputs: RunInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roles, sets = Evaluated(), {"split": inputs.splits.valid, "none": np.zeros(0, np.int64)}
    made = kept.reference_responses(inputs, roles, sets)  # type: ignore[arg-type]
    assert roles.done("greedy") == [("greedy", inputs.splits.valid.tolist(), False, 0)] and set(made) == {"split"}
    again = kept.reference_responses(inputs, roles, sets)  # type: ignore[arg-type]
    assert len(roles.calls) == 1
    assert torch.equal(again["split"].samples.response_tokens, made["split"].samples.response_tokens)
    # Other prompts, other settings of decoding: others are generated.
    kept.reference_responses(inputs, roles, {"split": inputs.splits.valid[:1]})  # type: ignore[arg-type]
    actor = inputs.config.actor
    penalty = replace(actor, rollout=replace(actor.rollout, repetition_penalty=1.3))
    other = replace(inputs, config=replace(inputs.config, actor=penalty))
    kept.reference_responses(other, roles, {"split": inputs.splits.valid[:1]})  # type: ignore[arg-type]
    assert len(roles.calls) == 3
    # A damaged file counts as none.
    file = tmp_path / "out" / kept.FOLDER / "rollouts.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    kept.reference_responses(other, roles, {"split": inputs.splits.valid[:1]})  # type: ignore[arg-type]
    assert len(roles.calls) == 4 and "generating the reference's responses again" in caplog.text


def test_a_reference_that_the_policy_is_not_is_read_by_the_rollout(inputs: RunInputs, tmp_path: Path) -> None:
    roles, sets = Evaluated(), {"split": inputs.splits.valid}
    ref = inputs.config.ref
    assert ref is not None and inputs.config.starts_as_reference
    distinct = replace(ref, checkpoint=replace(ref.checkpoint, load=str(tmp_path / "elsewhere")))
    actor = inputs.config.actor
    adapted = replace(actor, adapters=replace(actor.adapters, lora_target_modules=("all-linear",), lora_load="x"))
    for number, config in enumerate((replace(inputs.config, ref=distinct), replace(inputs.config, actor=adapted))):
        loop = replace(config.loop, output_dir=str(tmp_path / str(number)))
        kept.reference_responses(replace(inputs, config=replace(config, loop=loop)), roles, sets)  # type: ignore[arg-type]
    assert [call[2] for call in roles.done("greedy")] == [True, True]


def test_a_resumed_run_without_the_responses_of_random_weights_is_refused_before_any_device(tmp_path: Path) -> None:
    inputs = open_inputs(run_of(tmp_path, load=None, random_init=True))
    kept.check_reference_responses(inputs)
    resumed = replace(inputs, resume_point=ResumePoint(tmp_path, 3, True, True, {}))
    with pytest.raises(CheckpointError, match=r"eval_reference has no responses of the reference for this run, and"):
        kept.check_reference_responses(resumed)
    kept.reference_responses(inputs, Evaluated(), {"split": inputs.splits.valid})  # type: ignore[arg-type]
    kept.check_reference_responses(resumed)
