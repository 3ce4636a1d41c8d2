"""β-DPO's filter against torch's own draws without replacement, and its statistics against the authors' rule."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from mindspeed_dpo.algorithms.beta_dpo import MarginStatistics, beta_dpo_step, select_usual
from mindspeed_dpo.algorithms.cross_pair_values import StepValues, cross_pair_values
from mindspeed_dpo.algorithms.objective import PairValues, PreferenceObjective
from mindspeed_dpo.config.settings.loss import LossConfig

BETA, RATIO, MOMENTUM = 0.1, 0.6, 0.9
GAPS = torch.tensor([3.0, -2.0, 8.0, 40.0, 5.0], dtype=torch.float64)
"""Margins of log-ratios of five pairs, in nats; the fourth is far from the others."""


def filtered(alpha: float = 0.0) -> PreferenceObjective:
    settings = LossConfig(beta_dpo_alpha=alpha, beta_dpo_selection_ratio=RATIO, beta_dpo_momentum=MOMENTUM)
    return PreferenceObjective(settings, BETA)


def values() -> StepValues:
    logps = torch.stack([GAPS - 30, torch.full_like(GAPS, -31.0)], 1)
    return StepValues(torch.ones_like(logps), logps, torch.tensor([[0.0, -1.0]]).double().expand_as(logps))


def test_pairs_are_drawn_as_by_torch_multinomial_without_replacement() -> None:
    margins, usual = np.array([0.0, 0.1, 0.25, 0.4, -0.3]), MarginStatistics(0.1, 0.2)
    weights = torch.from_numpy(np.exp(-0.5 * ((margins - 0.1) / 0.2) ** 2))
    draws, count = 4000, 3
    torch.manual_seed(1)
    expected = torch.multinomial(weights.expand(draws, -1), count, replacement=False)
    theirs = Counter(tuple(sorted(row)) for row in expected.tolist())
    ours = Counter(
        tuple(np.flatnonzero(select_usual(margins, usual, RATIO, (seed,))).tolist()) for seed in range(draws)
    )
    for kept in theirs | ours:
        assert ours[kept] / draws == pytest.approx(theirs[kept] / draws, abs=0.04), kept
    assert {sum(1 for _ in kept) for kept in ours} == {count}


def test_an_outlier_is_left_out_though_its_density_underflows() -> None:
    for seed in range(50):
        kept = select_usual(np.array([0.0, 1e3, -1e3, 0.01, 2e3]), MarginStatistics(0.0, 0.01), 0.4, (seed,))
        assert kept.tolist() == [True, False, False, True, False]


def test_margins_that_differ_by_rounding_alone_do_not_decide() -> None:
    rounding = np.array([1e-7, -3e-7, 2e-6, 0.0, -1e-6])
    for seed in range(50):
        same = select_usual(rounding, MarginStatistics(), RATIO, (seed,))
        assert same.tolist() == select_usual(0 * rounding, MarginStatistics(), RATIO, (seed,)).tolist()


def test_statistics_and_beta_follow_the_rule_of_the_authors() -> None:
    before = MarginStatistics(0.2, 0.5)
    decided = beta_dpo_step(filtered(alpha=0.6), values(), before, (7, 0, 0))
    margins = BETA * GAPS
    mean, std = MOMENTUM * 0.2 + 0.1 * margins.mean(), MOMENTUM * 0.5 + 0.1 * margins.std()
    assert decided.statistics.mean == pytest.approx(float(mean))
    assert decided.statistics.std == pytest.approx(float(std))
    assert decided.loss_factors is not None
    kept = decided.loss_factors > 0
    assert int(kept.sum()) == 3 and not kept[3]
    assert decided.objective.beta == pytest.approx(BETA * (1 + 0.6 * float(margins[kept].mean() - 0.2)))


def test_the_loss_is_the_mean_over_the_selected_pairs_and_the_others_have_no_gradient() -> None:
    step = values()
    decided = beta_dpo_step(filtered(), step, MarginStatistics(0.2, 0.5), (7, 0, 0))
    assert step.logps is not None and step.ref_logps is not None and decided.loss_factors is not None
    logps = step.logps.clone().requires_grad_()
    cross_pair = replace(cross_pair_values(step, ("sigmoid",), None), loss_factors=decided.loss_factors)
    result = decided.objective(PairValues(logps, step.lengths, step.ref_logps, cross_pair=cross_pair))
    kept = decided.loss_factors > 0
    expected = -torch.nn.functional.logsigmoid(BETA * GAPS[kept]).mean()
    assert float(result.losses.mean()) == pytest.approx(float(expected))
    assert result.sums.means()["loss"] == pytest.approx(float(expected))
    result.losses.sum().backward()
    assert logps.grad is not None and (logps.grad[~kept] == 0).all() and (logps.grad[kept] != 0).all()


def test_another_step_or_seed_draws_others_and_the_same_one_the_same() -> None:
    margins = np.zeros(40)
    draws = [
        select_usual(margins, MarginStatistics(), 0.5, seed) for seed in ((1, 0, 0), (1, 0, 1), (1, 1, 0), (2, 0, 0))
    ]
    assert len({tuple(draw) for draw in draws}) == 4
    assert (select_usual(margins, MarginStatistics(), 0.5, (1, 0, 0)) == draws[0]).all()
    # At least one pair, and the floor of the share otherwise.
    assert [int(select_usual(np.zeros(n), MarginStatistics(), 0.29, (1,)).sum()) for n in (1, 3, 100)] == [1, 1, 29]
