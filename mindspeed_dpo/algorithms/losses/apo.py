"""Anchored preference optimisation (APO): losses that fix where the chosen response goes, not only the margin."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms
from mindspeed_dpo.config.settings.loss import LossConfig


def apo_zero_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """APO-zero of D'Oosterlinck et al. 2024 (arXiv:2408.06266): chosen up, rejected down.

    1 - sigmoid(beta r_w) + sigmoid(beta r_l). For data that is better than the policy.

    Args:
        terms: `ratios` r and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is 1.
    """
    rewards = terms.beta * terms.ratios
    return 1 - rewards[:, 0].sigmoid() + rewards[:, 1].sigmoid()


def apo_down_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """APO-down of D'Oosterlinck et al. 2024 (arXiv:2408.06266): both down, rejected more.

    sigmoid(beta r_w) + 1 - sigmoid(beta (r_w - r_l)). For data that is worse than the policy; at the reference the
    chosen response gets no gradient.

    Args:
        terms: `ratios` r and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is 1.
    """
    rewards = terms.beta * terms.ratios
    return rewards[:, 0].sigmoid() + 1 - (rewards[:, 0] - rewards[:, 1]).sigmoid()
