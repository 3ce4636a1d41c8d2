"""Noise-contrastive alignment for pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms
from mindspeed_dpo.config.settings.loss import LossConfig


def nca_pair_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """NCA loss for pairs of Chen et al. 2024 (arXiv:2402.05369): each response is contrasted with noise, too.

    -log sigmoid(beta r_w) - log sigmoid(-beta r_w) / 2 - log sigmoid(-beta r_l) / 2.

    Args:
        terms: `ratios` r and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is 2 ln 2.
    """
    rewards = terms.beta * terms.ratios
    chosen, rejected = rewards.unbind(1)
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
