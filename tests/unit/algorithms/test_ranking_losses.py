"""The objective of reward models against float64 formulas, and what padding, factors and margins do to it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mindspeed_dpo.algorithms.losses.bradley_terry import bradley_terry_loss
from mindspeed_dpo.algorithms.losses.plackett_luce import plackett_luce_loss
from mindspeed_dpo.algorithms.ranking_objective import ResponseScores, RewardModelObjective
from mindspeed_dpo.config.settings.reward_model import RewardModelConfig

SCORES = torch.tensor([[1.5, -0.5], [0.2, 0.9], [-30.0, 40.0], [2.0, 2.0]], dtype=torch.float64)
MARGINS = torch.tensor([0.0, 0.5, 1.0, -0.25])


def bradley_terry(z: np.ndarray, smoothing: float) -> np.ndarray:
    return (1 - smoothing) * np.logaddexp(0, -z) + smoothing * np.logaddexp(0, z)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_margins", [False, True])
def test_the_pair_loss_is_its_formula(smoothing: float, with_margins: bool) -> None:
    actual = bradley_terry_loss(SCORES, MARGINS if with_margins else None, smoothing)
    z = (SCORES[:, 0] - SCORES[:, 1]).numpy() - (MARGINS.numpy() if with_margins else 0)
    np.testing.assert_allclose(actual.numpy(), bradley_terry(z, smoothing), rtol=1e-12)
    assert bradley_terry_loss(SCORES[3:], None, smoothing).item() == pytest.approx(math.log(2))


def test_the_loss_of_a_ranking_is_the_likelihood_of_choosing_the_best_again_and_again() -> None:
    scores = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = []
    for row in scores.tolist():
        likelihood = 1.0
        for place in range(len(row)):
            likelihood *= math.exp(row[place]) / sum(math.exp(other) for other in row[place:])
        expected.append(-math.log(likelihood))
    np.testing.assert_allclose(plackett_luce_loss(scores).numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(plackett_luce_loss(SCORES), bradley_terry_loss(SCORES))
    assert plackett_luce_loss(torch.zeros(1, 4)).item() == pytest.approx(math.log(24))
    orders = torch.stack([scores[0, list(order)] for order in itertools.permutations(range(5))])
    assert (-plackett_luce_loss(orders)).exp().sum().item() == pytest.approx(1.0)
    assert torch.isfinite(plackett_luce_loss(torch.tensor([[-1e4, 1e4, 0.0]]))).all()


def test_gradients_are_those_of_finite_differences() -> None:
    for settings in (RewardModelConfig(), RewardModelConfig(rm_label_smoothing=0.1, center_rewards_coefficient=0.3)):
        for scores in (SCORES[:2], torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64)):
            objective = RewardModelObjective(settings)
            value = scores.clone().requires_grad_()
            assert torch.autograd.gradcheck(lambda x, o=objective: o(ResponseScores(x)).losses, (value,))


def test_the_terms_are_summed_with_their_coefficient_and_factor() -> None:
    settings = RewardModelConfig(rm_label_smoothing=0.2, center_rewards_coefficient=0.5)
    factors = torch.tensor([1.0, 2.0, 0.0, 0.5])
    result = RewardModelObjective(settings)(ResponseScores(SCORES, factors=factors, margins=MARGINS))
    z = (SCORES[:, 0] - SCORES[:, 1]).numpy() - MARGINS.numpy()
    center = (SCORES.sum(1) ** 2).numpy()
    expected = (bradley_terry(z, 0.2) + 0.5 * center) * factors.numpy()
    np.testing.assert_allclose(result.losses.numpy(), expected, rtol=1e-12)
    means = result.sums.means()
    assert means["loss"] == pytest.approx(expected.mean())
    assert means["loss/ranking"] == pytest.approx(bradley_terry(z, 0.2).mean())
    assert means["loss/center"] == pytest.approx(center.mean())


def test_metrics_are_means_over_pairs_and_a_tie_is_no_success() -> None:
    means = RewardModelObjective()(ResponseScores(SCORES)).sums.means()
    margins = (SCORES[:, 0] - SCORES[:, 1]).numpy()
    assert means["rewards/margins"] == pytest.approx(margins.mean())
    assert means["rewards/accuracies"] == 0.25
    assert means["rewards/chosen"] == pytest.approx(SCORES[:, 0].mean().item())
    assert means["rewards/rejected"] == pytest.approx(SCORES[:, 1].mean().item())
    assert means["rewards/brier"] == pytest.approx(((1 - 1 / (1 + np.exp(-margins))) ** 2).mean())
    assert "loss/ranking" not in means
    of_three = RewardModelObjective()(ResponseScores(torch.tensor([[3.0, 2.0, 2.5]], dtype=torch.float64))).sums.means()
    assert of_three["rewards/accuracies"] == pytest.approx(2 / 3)


def test_padding_counts_nowhere_even_if_it_is_not_finite() -> None:
    padded = torch.cat([SCORES, torch.tensor([[math.nan, math.inf]], dtype=torch.float64)]).requires_grad_()
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    objective = RewardModelObjective(RewardModelConfig(center_rewards_coefficient=0.1))
    result = objective(ResponseScores(padded, weights))
    plain = objective(ResponseScores(SCORES))
    assert torch.equal(result.losses[:4], plain.losses) and result.losses[4] == 0
    assert result.sums.means() == plain.sums.means()
    result.losses.sum().backward()
    assert padded.grad is not None and torch.equal(padded.grad[4], torch.zeros(2, dtype=torch.float64))


def test_weights_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights must be \[4\], one per row, got \[1\]"):
        RewardModelObjective()(ResponseScores(SCORES, torch.ones(1)))
