"""Efficient exact optimisation (EXO) for pairs."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin
from mindspeed_dpo.config.settings.loss import LossConfig


def exo_pair_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """EXO loss for pairs, equation 16 of Ji et al. 2024 (arXiv:2402.00856): reverse KL to the smoothed preference.

    With z = beta (s_w - s_l): sigmoid(z) (log sigmoid(z) - log(1 - e)) + sigmoid(-z) (log sigmoid(-z) - log e).

    Args:
        terms: `scores` s and `beta`.
        settings: `dpo_label_smoothing` e, the probability in (0, 0.5) that a preference label is flipped; log e needs
            it above 0.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is
        -ln 2 - ln(e (1 - e)) / 2.
    """
    z, label_smoothing = terms.beta * margin(terms.scores), settings.dpo_label_smoothing
    right = z.sigmoid() * (logsigmoid(z) - math.log1p(-label_smoothing))
    return right + (-z).sigmoid() * (logsigmoid(-z) - math.log(label_smoothing))
