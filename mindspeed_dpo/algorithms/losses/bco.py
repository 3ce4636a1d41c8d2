"""Binary classifier optimisation (BCO) for pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms
from mindspeed_dpo.config.settings.loss import LossConfig


def bco_pair_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """BCO loss for pairs of Jung et al. 2024 (arXiv:2404.04656), without the shift by a running mean.

    -log sigmoid(beta r_w) - log sigmoid(-beta r_l), as in TRL 1.16.

    Args:
        terms: `ratios` r and `beta`.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is 2 ln 2.
    """
    rewards = terms.beta * terms.ratios
    return -logsigmoid(rewards[:, 0]) - logsigmoid(-rewards[:, 1])
