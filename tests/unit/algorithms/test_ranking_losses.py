"""The objective of reward models against float64 formulas, and what padding, factors and margins do to it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mindspeed_dpo.algorithms.calibration import with_calibration_error
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


RANKINGS = torch.tensor(
    [[1.5, -0.5, math.nan, 7.0], [0.2, 0.9, -1.0, 2.0], [3.0, 2.0, 1.0, math.inf]], dtype=torch.float64
)
COUNTS = (2, 4, 3)
"""Responses of each row; what follows is no score."""
PRESENT = torch.arange(4) < torch.tensor(COUNTS)[:, None]


def test_rows_of_different_length_are_what_they_are_alone() -> None:
    settings = RewardModelConfig(center_rewards_coefficient=0.3)
    scores = RANKINGS.clone().requires_grad_()
    together = RewardModelObjective(settings)(ResponseScores(scores, present=PRESENT))
    alone = [
        RewardModelObjective(settings)(ResponseScores(RANKINGS[row : row + 1, :count]), with_calibration=True)
        for row, count in enumerate(COUNTS)
    ]
    torch.testing.assert_close(together.losses, torch.cat([one.losses for one in alone]), rtol=1e-14, atol=0)
    # The first has two responses: the loss of its pair.
    assert together.losses[0].item() == pytest.approx(math.log1p(math.exp(-2.0)) + 0.3 * 1.0, rel=1e-14)
    means = [one.sums.means() for one in alone]
    for name, mean in together.sums.means().items():
        assert mean == pytest.approx(sum(one[name] for one in means) / 3, rel=1e-13), name
    together.losses.sum().backward()
    assert scores.grad is not None and torch.equal(scores.grad != 0, PRESENT) and scores.grad.isfinite().all()


def test_the_likelihoods_of_all_orders_of_a_row_with_absent_responses_sum_to_one() -> None:
    orders = torch.stack([RANKINGS[2, [*order, 3]] for order in itertools.permutations(range(3))])
    present = PRESENT[2:].expand(6, 4)
    assert (-plackett_luce_loss(orders, present)).exp().sum().item() == pytest.approx(1.0, rel=1e-14)
    assert plackett_luce_loss(torch.zeros(1, 4), PRESENT[2:]).item() == pytest.approx(math.log(6))


def test_accuracy_and_calibration_of_rankings_are_over_all_their_pairs() -> None:
    result = RewardModelObjective()(ResponseScores(RANKINGS, present=PRESENT), with_calibration=True)
    means = with_calibration_error(result.sums.means())
    rows = [row[:count] for row, count in zip(RANKINGS.tolist(), COUNTS, strict=True)]
    pairs = [[(a, b) for a, b in itertools.combinations(row, 2)] for row in rows]
    right = [sum(a > b for a, b in row) / len(row) for row in pairs]
    assert means["rewards/accuracies"] == pytest.approx(sum(right) / 3)
    brier = [sum((1 - 1 / (1 + math.exp(b - a))) ** 2 for a, b in row) / len(row) for row in pairs]
    assert means["rewards/brier"] == pytest.approx(sum(brier) / 3)
    weights = [1 / (3 * len(row)) for row in pairs for _ in row]
    assert means["rewards/ece"] == pytest.approx(calibration_error([a - b for row in pairs for a, b in row], weights))
    assert not any(name.startswith("calibration/") for name in means)


def calibration_error(margins: list[float], weights: list[float]) -> float:
    """By its definition: of each bin of ten, |accuracy - mean confidence| by the bin's share."""
    total = 0.0
    for number in range(10):
        inside = []
        for margin, weight in zip(margins, weights, strict=True):
            confidence = 1 / (1 + math.exp(-abs(margin)))
            if min(int((confidence - 0.5) / 0.05), 9) == number:
                inside.append((weight, 0.5 if margin == 0 else float(margin > 0), confidence))
        share = sum(weight for weight, _, _ in inside)
        if share:
            accuracy, confidence = (sum(one[0] * one[k] for one in inside) / share for k in (1, 2))
            total += share * abs(accuracy - confidence)
    return total


def test_the_calibration_error_is_its_definition_and_0_for_a_coin() -> None:
    generator = torch.Generator().manual_seed(2)
    margins = 3 * torch.randn(400, dtype=torch.float64, generator=generator)
    scores = torch.stack([margins, torch.zeros_like(margins)], 1)
    objective = RewardModelObjective()
    means = with_calibration_error(objective(ResponseScores(scores), with_calibration=True).sums.means())
    assert means["rewards/ece"] == pytest.approx(calibration_error(margins.tolist(), [1 / 400] * 400))
    # In two parts the sums are the same: nothing is averaged before the end.
    parts = [objective(ResponseScores(part), with_calibration=True).sums for part in scores.split([150, 250])]
    parts[0].merge(parts[1])
    assert with_calibration_error(parts[0].means())["rewards/ece"] == pytest.approx(means["rewards/ece"])
    # Preferences that are drawn with the predicted probabilities are calibrated, up to the noise of 4000 draws.
    predicted = 2 * torch.randn(4000, dtype=torch.float64, generator=generator).abs()
    is_right = torch.rand(4000, dtype=torch.float64, generator=generator) < predicted.sigmoid()
    drawn = torch.where(is_right, predicted, -predicted)
    assert calibration_of(drawn) < 0.03 and calibration_of(3 * drawn) > 0.1
    assert calibration_of(torch.zeros(5)) == 0


def calibration_of(margins: torch.Tensor) -> float:
    scores = torch.stack([margins, torch.zeros_like(margins)], 1)
    means = RewardModelObjective()(ResponseScores(scores), with_calibration=True).sums.means()
    return with_calibration_error(means)["rewards/ece"]


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
    scaled = RewardModelObjective(settings, margin_scale=2.0)(
        ResponseScores(SCORES, factors=factors, margins=MARGINS / 2)
    )
    assert torch.equal(scaled.losses, result.losses)
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
