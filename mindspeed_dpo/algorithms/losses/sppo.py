"""Self-play preference optimisation (SPPO) with hard labels."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms
from mindspeed_dpo.config.settings.loss import LossConfig


def sppo_hard_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """SPPO loss with win probabilities 1 and 0, after Wu et al. 2024 (arXiv:2405.00675).

    (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2.

    Args:
        terms: `ratios` r and `beta`, the inverse of twice the target log-ratio in nats.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the ratios. Where policy equals reference it is 1 / (2 beta^2).
    """
    target = 1 / (2 * terms.beta)
    return (terms.ratios[:, 0] - target) ** 2 + (terms.ratios[:, 1] + target) ** 2
