"""Differences between the log-probabilities of rollout and policy, against sums of plain Python in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mindspeed_dpo.algorithms.logp_difference import K3, MEAN, logp_difference
from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.data.batching.packing_and_label_shift import pack

BATCH = PreferenceBatch.from_lists([[5, 6], [4]], [[[7, 8, 9], [3]], [[2, 2], [1, 1, 1]]])
POLICY = [-0.5, -1.0, -3.0, -0.1, -2.0, -4.0, -0.3, -0.2, -9.0]
ROLLOUT = [-0.4, -1.0, -3.5, math.nan, -2.25, -1.0, -0.3, -0.1, -5.0]


def expected(tokens: range) -> tuple[float, float, float]:
    """Mean, largest, and mean of K3 of some tokens."""
    ratios = [POLICY[token] - ROLLOUT[token] for token in tokens if not math.isnan(ROLLOUT[token])]
    k3 = [math.exp(ratio) - 1 - ratio for ratio in ratios]
    return sum(map(abs, ratios)) / len(ratios), max(map(abs, ratios)), sum(k3) / len(k3)


@pytest.mark.parametrize(
    ("weights", "tokens"), [([1.0, 1.0], range(9)), ([1.0, 0.0], range(4)), ([0.0, 1.0], range(4, 9))]
)
@pytest.mark.parametrize("share_prompt", [True, False])
def test_known_tokens_of_real_pairs_count(weights: list[float], tokens: range, share_prompt: bool) -> None:
    batch = replace(BATCH, rollout_token_logps=torch.tensor(ROLLOUT))
    packed = pack(batch, share_prompt=share_prompt, multiple_of=16, weights=torch.tensor(weights))
    sums, largest = logp_difference(packed, torch.tensor(POLICY)[:, None])
    means = sums.means()
    assert (means[MEAN], float(largest), means[K3]) == pytest.approx(expected(tokens), rel=1e-5)


def test_tokens_that_are_not_scored_do_not_count() -> None:
    scored = torch.tensor([True, True, False, True, True, False, True, True, True])
    batch = replace(BATCH, rollout_token_logps=torch.tensor(ROLLOUT), scored=scored)
    _, largest = logp_difference(pack(batch), torch.tensor(POLICY)[scored][:, None])
    assert float(largest) == pytest.approx(4.0)


def test_equal_log_probabilities_differ_by_nothing_and_k3_is_never_negative() -> None:
    packed = pack(replace(BATCH, rollout_token_logps=torch.tensor(POLICY)))
    sums, largest = logp_difference(packed, torch.tensor(POLICY)[:, None])
    assert sums.means() == {MEAN: 0.0, K3: 0.0} and float(largest) == 0
    other, _ = logp_difference(packed, torch.tensor(POLICY)[:, None] + torch.linspace(-3, 3, 9)[:, None])
    assert other.means()[K3] > 0
