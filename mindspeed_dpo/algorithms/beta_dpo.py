"""β-DPO: beta follows the margins of each batch, and their outliers are left out (Wu et al. 2024, arXiv:2407.08639).

The margin of a pair is M = beta times the difference of its log-ratios, before the update. Running mean and standard
deviation of M over the steps say what is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindspeed_dpo.algorithms.cross_pair_values import StepValues
from mindspeed_dpo.algorithms.losses.pair_terms import margin
from mindspeed_dpo.algorithms.objective import PreferenceObjective
from mindspeed_dpo.device.ops import total

MIN_STD = 1e-3
"""Least standard deviation of the filter: margins of a policy that equals its reference differ by rounding alone."""


@dataclass(frozen=True)
class MarginStatistics:
    """Running statistics of the margins, zero before the first step: equation 9 of Wu et al. 2024.

    The standard deviation is averaged like the mean, as in the authors' code.

    Example: margins that were 0.3 on average, two thirds of them between 0.1 and 0.5.

        MarginStatistics(mean=0.3, std=0.2)

    Attributes:
        mean: Moving average of the mean of a step.
        std: Moving average of the standard deviation of a step.
    """

    mean: float = 0.0
    std: float = 0.0

    def after(self, mean: float, std: float, momentum: float) -> MarginStatistics:
        """Add a step; `momentum` is the weight of the earlier ones."""
        return MarginStatistics(
            momentum * self.mean + (1 - momentum) * mean, momentum * self.std + (1 - momentum) * std
        )


@dataclass(frozen=True)
class BetaDpoStep:
    """The decisions of β-DPO for a step of N pairs.

    Example: two of four pairs are trained on, each with twice its loss.

        BetaDpoStep(objective, MarginStatistics(0.3, 0.2), loss_factors=tensor([2.0, 0.0, 0.0, 2.0]))

    Attributes:
        objective: The objective with the beta of this step.
        statistics: The running statistics, this step included.
        loss_factors: [N] float32 or float64, N / n for the n selected pairs and 0 for the others, so that a mean over N
            is one over n; None without the filter.
    """

    objective: PreferenceObjective
    statistics: MarginStatistics
    loss_factors: Tensor | None = None


def beta_dpo_step(
    objective: PreferenceObjective, values: StepValues, before: MarginStatistics, seed: Sequence[int]
) -> BetaDpoStep:
    """Select the pairs of a step, and adapt beta to the selected ones.

    Args:
        objective: The objective with the beta that the schedule gives.
        values: Values of the entire step, the same on every rank.
        before: Statistics of the earlier steps.
        seed: Seed of the selection: of the run, and the numbers of the optimizer step.
    """
    assert values.logps is not None and values.ref_logps is not None, "β-DPO follows log-probabilities"
    loss, beta = objective.settings, objective.beta
    margins = margin(values.logps) - margin(values.ref_logps)
    mean, kept, factors = beta * _mean(margins), margins, None
    after = before.after(mean, beta * _std(margins), loss.beta_dpo_momentum)
    if loss.beta_dpo_selection_ratio < 1:
        is_kept = torch.from_numpy(
            select_usual(beta * margins.cpu().numpy(), after, loss.beta_dpo_selection_ratio, seed)
        ).to(margins.device)
        kept = margins[is_kept]
        factors = is_kept.to(margins.dtype) * (len(margins) / len(kept))
        mean = beta * _mean(kept)
    beta = adapted_beta(beta, mean, before.mean, loss.beta_dpo_alpha) if loss.beta_dpo_alpha else beta
    return BetaDpoStep(replace(objective, beta=beta), after, factors)


def adapted_beta(beta: float, mean: float, usual: float, alpha: float) -> float:
    """Adapt beta to a batch, equation 8 of Wu et al. 2024, at least a hundredth of `beta`: [1 + alpha (M - M0)] beta.

    Args:
        beta: Beta of a batch whose margins are as usual, per nat.
        mean: M, mean margin of the batch.
        usual: M0, running mean over the earlier batches.
        alpha: Strength of the adaptation.
    """
    return beta * max(1 + alpha * (mean - usual), 0.01)


def select_usual(
    margins: NDArray[np.floating], usual: MarginStatistics, ratio: float, seed: Sequence[int]
) -> NDArray[np.bool_]:
    """Select pairs at random without replacement, by the Gaussian density of their margins (β-guided data filtering).

    The density exp(-(M - M0)^2 / (2 std^2)) weights the draws (Wu et al. 2024). To add Gumbel noise to its logarithm
    and take the largest draws the same way (Kool et al. 2019, arXiv:1903.06059), also where all densities underflow.

    Args:
        margins: [N] float32 or float64 margins M.
        usual: Statistics with M0 and the standard deviation, of which `MIN_STD` is the least.
        ratio: Share of the pairs to select, rounded down, at least one.
        seed: Seed of the draws.

    Returns:
        [N] bool, whether a pair is selected.
    """
    count = max(1, int(ratio * len(margins) + 1e-9))
    distances = (margins.astype(np.float64) - usual.mean) / max(usual.std, MIN_STD)
    keys = -0.5 * distances**2 + np.random.default_rng(list(seed)).gumbel(size=len(margins))
    is_selected = np.zeros(len(margins), np.bool_)
    is_selected[np.argsort(-keys, kind="stable")[:count]] = True
    return is_selected


def _mean(values: Tensor) -> float:
    return float((total(values) / len(values)).item())


def _std(values: Tensor) -> float:
    """Return the standard deviation with n - 1 in the denominator, as in the authors' code; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    around = values - total(values) / len(values)
    return float((total(around**2) / (len(values) - 1)).sqrt().item())
