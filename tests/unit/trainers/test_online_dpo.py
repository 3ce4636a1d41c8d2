"""The online trainer with fake roles: order of calls, what is trained on, steps without a pair."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.pair_selection import PairingConfig
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.metric_names import metric
from mindspeed_dpo.trainers.loop import LoopSchedule
from mindspeed_dpo.trainers.nan_check import DivergenceError
from mindspeed_dpo.trainers.online_dpo import NothingScoredError, OnlineDPOTrainer
from mindspeed_dpo.trainers.sample_table import SampleTable
from mindspeed_dpo.untrusted.errors import MalformedDataError
from mindspeed_dpo.workers.scorer import Scored, Verdicts

ROWS = np.array([7, 2, 9, 4, 0])
BATCH, COUNT = 3, 2


def responses_to(rows: np.ndarray) -> PreferenceBatch:
    """The first response to row r is [r + 1], the second [r + 1, 50]."""
    return PreferenceBatch.from_lists([[int(row), 1] for row in rows], [[[int(r) + 1], [int(r) + 1, 50]] for r in rows])


@dataclass
class FakeRoles:
    """All roles and the tracker at once; the second response of a row scores 1, the first 0, unless set otherwise."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    logged: dict[int, dict[str, float]] = field(default_factory=dict)
    scores: Callable[[np.ndarray], np.ndarray] = lambda rows: np.tile(np.array([0.0, 1.0], np.float32), (len(rows), 1))
    metrics: dict[str, float] = field(default_factory=lambda: {"loss": 0.5, "grad_norm": 1.0, "beta": 0.1})
    verdicts: Verdicts = field(default_factory=Verdicts)
    version: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    saved_ahead: dict[int, RolloutBatch | None] = field(default_factory=dict)

    def start_generate(self, rows: np.ndarray, first_sample: int) -> Callable[[], RolloutBatch]:
        self.calls.append(("generate", rows.tolist(), first_sample, self.version))
        shape = (len(rows), COUNT)
        return lambda: RolloutBatch(
            responses_to(rows), torch.as_tensor(rows), torch.ones(shape, dtype=torch.bool), torch.zeros(shape),
            self.version,
        )  # fmt: skip

    def start_score(self, rollouts: RolloutBatch) -> Callable[[], Scored]:
        rows = rollouts.rows.numpy()
        self.calls.append(("score", rows.tolist()))

        def finish() -> Scored:
            self.calls.append(("scored",))
            return Scored(self.scores(rows), verdicts=self.verdicts).validated(rows.tolist())

        return finish

    def start_log_probs(self, pairs: PreferenceBatch) -> Callable[[], np.ndarray]:
        firsts = pairs.prompt_tokens[::2].numpy()
        self.calls.append(("ref", firsts.tolist()))
        return lambda: np.stack([firsts, 2 * firsts], 1).astype(np.float32)

    def update(self, step: int, pairs: PreferenceBatch, ref_logps: np.ndarray) -> dict[str, float]:
        chosen = [responses[0].tolist() for responses in pairs.responses()]
        self.calls.append(("update", step, chosen, ref_logps.tolist()))
        return dict(self.metrics)

    def update_weights(self, version: int) -> None:
        self.calls.append(("publish", version))
        self.version = version

    def sync_if_due(self, num_done: int) -> bool:
        return False

    def save(self, iteration: int, metadata: Mapping[str, Any], prefetched: RolloutBatch | None = None) -> str:
        self.calls.append(("save", iteration))
        self.totals = metadata["totals"]
        self.saved_ahead[iteration] = prefetched
        return f"iter_{iteration}"

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.calls.append(("log", step))
        self.logged[step] = dict(metrics)

    def done(self, kind: str) -> list[Any]:
        return [call for call in self.calls if call[0] == kind]


def trainer(
    roles: FakeRoles, schedule: LoopSchedule, folder: Path, interval: int | None = None, **pairing: Any
) -> OnlineDPOTrainer:
    settings = replace(PairingConfig(ppo_mini_batch_size=BATCH), **pairing)
    samples = SampleTable(folder / "samples.jsonl", lambda ids: " ".join(map(str, ids)), interval)
    return OnlineDPOTrainer(
        actor=roles, rollout=roles, reward=roles, reference=roles, tracker=roles, schedule=schedule, train_rows=ROWS,
        sampler=PairSampler(len(ROWS), BATCH, seed=5), pairing=settings, samples=samples,
    )  # type: ignore[arg-type]  # fmt: skip


def rows_of_step(step: int) -> list[int]:
    return ROWS[PairSampler(len(ROWS), BATCH, seed=5).rows(step)].tolist()


def test_a_step_samples_scores_beside_the_reference_pairs_learns_and_publishes(tmp_path: Path) -> None:
    roles = FakeRoles()
    assert trainer(roles, LoopSchedule(0, 1), tmp_path).fit() == 1
    rows = rows_of_step(0)
    assert roles.calls == [
        ("generate", rows, 0, 0), ("score", rows), ("ref", rows), ("scored",),
        ("update", 0, [[row + 1, 50] for row in rows], [[2 * row, row] for row in rows]),
        ("publish", 1), ("log", 1), ("save", 1),
    ]  # fmt: skip


def test_sample_numbers_go_on_where_the_run_does(tmp_path: Path) -> None:
    roles = FakeRoles(version=2)
    trainer(roles, LoopSchedule(2, 5), tmp_path).fit()
    assert [(call[2], call[3]) for call in roles.done("generate")] == [(6, 2), (9, 3), (12, 4)]
    assert [logged["pairs/staleness"] for logged in roles.logged.values()] == [0.0] * 3


def test_prompts_with_equal_scores_are_not_trained_on(tmp_path: Path) -> None:
    tied = rows_of_step(0)[1]
    roles = FakeRoles(scores=lambda rows: np.array([[1, 1] if row == tied else [1, 0] for row in rows], np.float32))
    trainer(roles, LoopSchedule(0, 1), tmp_path).fit()
    ((_, _, chosen, _),) = roles.done("update")
    assert chosen == [[row + 1] for row in rows_of_step(0) if row != tied]
    assert roles.logged[1]["pairs/ties"] == pytest.approx(1 / 3) and roles.logged[1]["pairs/count"] == 2


def test_a_step_without_a_pair_leaves_the_policy_and_goes_on(tmp_path: Path) -> None:
    roles = FakeRoles(scores=lambda rows: np.ones((len(rows), COUNT), np.float32))
    assert trainer(roles, LoopSchedule(0, 2), tmp_path).fit() == 2
    assert roles.done("update") == [] and "loss" not in roles.logged[2]
    assert roles.logged[2]["pairs/ties"] == 1.0


def test_a_step_in_which_nothing_could_be_scored_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    roles = FakeRoles(scores=lambda rows: np.full((len(rows), COUNT), np.nan, np.float32))
    with pytest.raises(NothingScoredError, match="step 1: no response could be scored: the responses to dataset row"):
        trainer(roles, LoopSchedule(0, 2), tmp_path).fit()


def test_texts_of_a_judge_model_are_counted_and_one_verdict_is_enough(tmp_path: Path) -> None:
    roles = FakeRoles(verdicts=Verdicts(8, unparsed=7, cut=2, example="nothing in it"))
    trainer(roles, LoopSchedule(0, 1), tmp_path).fit()
    assert (roles.logged[1]["judge/unparsed"], roles.logged[1]["judge/cut"]) == (7 / 8, 1 / 4)


@pytest.mark.parametrize("score", [3.0, np.nan])
def test_a_step_without_any_verdict_ends_the_run_whatever_such_a_text_scores(score: float, tmp_path: Path) -> None:
    none = Verdicts(8, unparsed=8, cut=2, example="judge_verdict=… finds nothing in its text 'Hm'")
    roles = FakeRoles(scores=lambda rows: np.full((len(rows), COUNT), score, np.float32), verdicts=none)
    with pytest.raises(NothingScoredError) as ended:
        trainer(roles, LoopSchedule(0, 2), tmp_path).fit()
    assert str(ended.value) == (
        "step 1: none of the 8 texts of judge_model has a verdict (2 were cut off by judge_max_new_tokens); the first: "
        "judge_verdict=… finds nothing in its text 'Hm'; change judge_template, judge_verdict or judge_max_new_tokens"
    )


def test_a_policy_that_diverges_is_not_published(tmp_path: Path) -> None:
    roles = FakeRoles(metrics={"loss": float("nan"), "grad_norm": 1.0, "beta": 0.1})
    with pytest.raises(DivergenceError):
        trainer(roles, LoopSchedule(0, 2), tmp_path).fit()
    assert roles.done("publish") == []


def test_tokens_trained_on_are_counted_for_every_pass_and_saved_with_the_checkpoint(tmp_path: Path) -> None:
    tied = rows_of_step(0)[1]
    roles = FakeRoles(scores=lambda rows: np.array([[1, 1] if row == tied else [1, 0] for row in rows], np.float32))
    trainer(roles, LoopSchedule(0, 1), tmp_path, ppo_epochs=2).fit()
    of_pair = (2 + 1) + (2 + 2)
    assert roles.logged[1]["num_tokens"] == roles.totals["num_tokens"] == 2 * of_pair * 2
    later = trainer(FakeRoles(), LoopSchedule(1, 2), tmp_path)
    later.num_tokens = roles.totals["num_tokens"]
    later.fit()
    assert later.totals() == {"num_tokens": 2 * of_pair * 2 + 3 * of_pair}


def test_metrics_have_seconds_of_every_phase_and_names_of_the_table(tmp_path: Path) -> None:
    roles = FakeRoles()
    trainer(roles, LoopSchedule(0, 1), tmp_path).fit()
    names = {"timing/gen", "timing/ref", "timing/adv", "timing/update_actor", "timing/sync", "timing/all"}
    assert {name for name in roles.logged[1] if name.startswith("timing/")} == names
    assert all(metric(name) for name in roles.logged[1])
    assert roles.logged[1]["timing/ref"] <= roles.logged[1]["timing/adv"] <= roles.logged[1]["timing/all"]


def test_sample_responses_are_written_at_their_interval_with_score_and_role(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        trainer(FakeRoles(), LoopSchedule(0, 3), tmp_path, interval=2).fit()
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [2] * (BATCH * COUNT)
    row = rows_of_step(1)[0]
    assert records[:2] == [
        {"step": 2, "row": row, "prompt": f"{row} 1", "response": f"{row + 1}", "num_tokens": 1, "score": 0.0,
         "ended": True, "role": "rejected"},
        {"step": 2, "row": row, "prompt": f"{row} 1", "response": f"{row + 1} 50", "num_tokens": 2, "score": 1.0,
         "ended": True, "role": "chosen"},
    ]  # fmt: skip
    assert f"{row + 1} 50" in caplog.text and "1.0000" in caplog.text


def test_samples_are_texts_of_the_tracker_and_fit_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts: list[tuple[int, str, str]] = []
    roles = FakeRoles()
    roles.log_text = lambda *text: texts.append(text)  # type: ignore[attr-defined]
    with caplog.at_level("INFO"), live_status.shown(Console(file=io.StringIO(), force_terminal=True, width=60)):
        trainer(roles, LoopSchedule(0, 2), tmp_path, interval=2).fit()
    ((step, name, text),) = texts
    assert (step, name) == (2, "responses") and text.splitlines()[0] == "| prompt | response | score | pair |"
    tables = [record for record in caplog.records if record.getMessage().startswith("sample responses")]
    widths = {
        key: max(map(len, record.getMessage().splitlines()))
        for record in tables
        for key in ("file_only", "console_only")
        if hasattr(record, key)
    }
    assert widths == {"file_only": 120, "console_only": 60}


def test_samples_after_the_checkpoint_are_dropped_when_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6')
    SampleTable(path, str, 2, completed_steps=3)
    assert path.read_text() == '{"step": 2}\n'


def test_a_pipe_in_the_place_of_samples_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "samples.jsonl")
    with pytest.raises(MalformedDataError, match=r"samples\.jsonl is a pipe, where a file is expected"):
        SampleTable(tmp_path / "samples.jsonl", str, 2)


@dataclass
class Meeting(FakeRoles):
    """The same where the second response is another model's; a token's reference is minus the token."""

    trained_on: list[PreferenceBatch] = field(default_factory=list)

    def start_token_log_probs(self, sampled: PreferenceBatch) -> Callable[[], np.ndarray]:
        self.calls.append(("ref tokens", sampled.response_tokens.tolist()))
        return lambda: -sampled.response_tokens.numpy().astype(np.float32)

    def update(self, step: int, pairs: PreferenceBatch, ref_logps: np.ndarray) -> dict[str, float]:
        self.trained_on.append(pairs)
        return super().update(step, pairs, ref_logps)


def test_xpo_marks_the_references_response_wherever_it_stands_in_the_pair(tmp_path: Path) -> None:
    first = rows_of_step(0)[0]
    roles = Meeting(scores=lambda rows: np.array([[row == first, row != first] for row in rows], np.float32))
    trainer(roles, LoopSchedule(0, 1), tmp_path, online_method="xpo").fit()
    (pairs,) = roles.trained_on
    assert pairs.logp_weights is not None
    assert pairs.logp_weights.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert [row[0].tolist() for row in pairs.responses()] == [[first + 1], *([r + 1, 50] for r in rows_of_step(0)[1:])]
    # Of the policy's one response to each prompt.
    assert roles.logged[1]["objective/scores"] == pytest.approx(1 / 3) and roles.logged[1]["response_length/max"] == 1


def test_nash_md_trains_on_the_policys_responses_and_requests_their_tokens_alone(tmp_path: Path) -> None:
    rows = rows_of_step(0)
    scores = np.array([[0.5, 0.5], [np.nan, 1.0], [1.0, 3.0]], np.float32)
    roles = Meeting(scores=lambda _: scores)
    trainer(roles, LoopSchedule(0, 1), tmp_path, online_method="nash_md").fit()
    assert roles.done("ref") == [] and roles.done("ref tokens") == [("ref tokens", [row + 1 for row in rows])]
    ((_, _, chosen, ref_logps),) = roles.done("update")
    assert chosen == [[rows[0] + 1], [rows[2] + 1]] and ref_logps == [[-rows[0] - 1], [-rows[2] - 1]]
    (sampled,) = roles.trained_on
    assert sampled.ref_token_logps is not None and sampled.logp_weights is not None
    assert sampled.ref_token_logps.tolist() == [-rows[0] - 1, -rows[2] - 1]
    np.testing.assert_allclose(sampled.logp_weights[:, 0], [0, 1 / (1 + np.exp(2)) - 0.5], rtol=1e-6)
    assert roles.logged[1]["objective/scores_margin"] == -1.0 and roles.logged[1]["pairs/failed"] == pytest.approx(
        1 / 3
    )
    assert all(metric(name) for name in roles.logged[1])
