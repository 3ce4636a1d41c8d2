"""The win rate of greedy responses, and the metrics beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mindspeed_dpo.algorithms.win_rate import greedy_metrics, win_rate
from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.evaluation import ONLINE_METRICS


@pytest.mark.parametrize(
    ("scores", "rate"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], 0.5),
        ([[1.0, 1.0], [2.0, 2.0], [3.0, 1.0]], 2 / 3),
        ([[1.0, 0.0], [np.nan, np.nan], [5.0, 0.0]], 1.0),
        ([[-1.0, 0.0]], 0.0),
    ],
)
def test_ties_count_half_and_prompts_without_a_score_not_at_all(scores: list[list[float]], rate: float) -> None:
    assert win_rate(np.array(scores, np.float32)) == pytest.approx(rate)


def test_metrics_are_of_the_policys_responses() -> None:
    samples = PreferenceBatch.from_lists([[1], [2]], [[[3, 4, 5], [6]], [[7], [8, 9]]])
    both = RolloutBatch(samples, torch.tensor([4, 9]), torch.tensor([[True, False], [False, False]]))
    metrics = greedy_metrics(both, np.array([[2.0, 1.0], [4.0, 8.0]], np.float32))
    assert metrics == {
        "win_rate": 0.5, "reward/score/mean": 3.0, "response_length/mean": 2.0, "val/contain_eos_token": 0.5,
    }  # fmt: skip
    assert tuple(metrics) == ONLINE_METRICS
    nothing = greedy_metrics(both, np.full((2, 2), np.nan, np.float32))
    assert nothing == {"response_length/mean": 2.0, "val/contain_eos_token": 0.5}
