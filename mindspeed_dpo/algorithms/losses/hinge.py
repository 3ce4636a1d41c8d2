"""Hinge loss on the scaled margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin
from mindspeed_dpo.config.settings.loss import LossConfig


def hinge_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """Hinge loss max(0, 1 - z) with z = beta (s_w - s_l), after Zhao et al. 2023 (SLiC, arXiv:2305.10425).

    Args:
        terms: `scores` s and `beta`, the inverse of the margin in nats beyond which a pair has no loss.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is 1.
    """
    return relu(1 - terms.beta * margin(terms.scores))
