"""Metrics of sampled responses against what the definitions say, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mindspeed_dpo.algorithms.pairing import select_pairs
from mindspeed_dpo.algorithms.rollout_metrics import rollout_metrics
from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.observability.metric_names import metric

NAN = float("nan")
SCORES = np.array([[1.0, 4.0], [2.0, 2.0], [NAN, NAN]], np.float32)
LOGPS = torch.tensor([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]])
REF = np.array([[-2.0, -2.0], [-3.0, -3.0], [-7.0, -7.0]], np.float32)


def rollouts(logps: torch.Tensor | None = LOGPS) -> RolloutBatch:
    prompts, responses = [[1], [1, 2, 3], [1, 2]], [[[5], [6, 7]], [[5, 5, 5], [8]], [[9, 9], [8, 8, 8, 8]]]
    ended = torch.tensor([[True, True], [False, True], [False, False]])
    return RolloutBatch(PreferenceBatch.from_lists(prompts, responses), torch.arange(3), ended, logps, version=3)


def metrics(scores: np.ndarray = SCORES, **changes: object) -> dict[str, float]:
    batch = rollouts()
    selection = select_pairs(batch.samples, scores, rule="best_worst", seed=(0,))
    arguments = {"ref_logps": REF, "beta": 0.5, "version": 4, **changes}
    return rollout_metrics(batch, scores, selection, **arguments)  # type: ignore[arg-type]


def test_every_value_is_what_its_name_says() -> None:
    kl = float(np.mean([1, 0, 0, -1, 2, 1]))
    expected = {
        "objective/scores": 9 / 4, "reward/score/mean": 9 / 4, "reward/score/max": 4.0, "reward/score/min": 1.0,
        "reward/score/std": float(np.std([1, 4, 2, 2])), "objective/scores_margin": 3.0, "pairs/count": 1,
        "pairs/ties": 1 / 3, "pairs/failed": 1 / 3, "pairs/dropped": 2 / 3, "pairs/staleness": 1.0,
        "val/contain_eos_token": 0.5, "objective/kl": kl, "objective/entropy": 3.5,
        "objective/non_score_reward": -0.5 * kl, "objective/rlhf_reward": 9 / 4 - 0.5 * kl,
        "prompt_length/mean": 2.0, "prompt_length/max": 3.0, "prompt_length/min": 1.0,
        "response_length/mean": 13 / 6, "response_length/max": 4.0, "response_length/min": 1.0,
    }  # fmt: skip
    assert metrics() == pytest.approx(expected)


def test_all_names_are_in_the_table() -> None:
    for name in metrics():
        assert metric(name)


def test_where_nothing_is_scored_there_is_no_mean_of_scores() -> None:
    actual = metrics(np.full((3, 2), np.nan, np.float32))
    assert not [name for name in actual if "score" in name and name != "objective/non_score_reward"]
    assert actual["pairs/failed"] == 1.0 and actual["pairs/count"] == 0


def test_where_another_model_generates_too_responses_are_the_policys_and_margins_of_both() -> None:
    complete, own = metrics(), metrics(own=1)
    expected = {
        "objective/scores": 1.5, "reward/score/max": 2.0, "reward/score/min": 1.0, "objective/kl": 1.0,
        "objective/entropy": 3.0, "val/contain_eos_token": 1 / 3, "response_length/mean": 2.0,
        "response_length/max": 3.0, "objective/rlhf_reward": 1.0,
    }  # fmt: skip
    assert {name: own[name] for name in expected} == pytest.approx(expected)
    pairs = ("objective/scores_margin", "pairs/count", "pairs/ties", "pairs/failed", "pairs/dropped")
    assert [own[name] for name in pairs] == [complete[name] for name in pairs]
