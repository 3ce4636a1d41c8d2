"""DiscoPOP, a loss discovered by a search over loss functions."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, bounded_exp, margin
from mindspeed_dpo.config.settings.loss import LossConfig


def discopop_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """DiscoPOP, the log-ratio modulated loss of Lu et al. 2024 (arXiv:2406.08414): logistic and exponential, blended.

    With z = beta (s_w - s_l) and m = sigmoid(z / tau): -(1 - m) log sigmoid(z) + m exp(-z). Close to z = 0 it pushes
    the chosen response down: its slope is positive there.

    Args:
        terms: `scores` s and `beta`.
        settings: `discopop_tau` tau, the width of the blend; small values amplify rounding.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is (ln 2 + 1) / 2.
    """
    z = terms.beta * margin(terms.scores)
    blend = (z / settings.discopop_tau).sigmoid()
    return -(1 - blend) * logsigmoid(z) + blend * bounded_exp(-z)
