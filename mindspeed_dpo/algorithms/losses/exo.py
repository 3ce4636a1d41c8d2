"""Efficient exact optimisation for pairs."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import margin


def exo_pair_loss(scores: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """EXO loss for pairs, equation 16 of Ji et al. 2024 (arXiv:2402.00856): reverse KL to the smoothed preference.

    With z = beta (r_w - r_l): sigmoid(z) (log sigmoid(z) - log(1 - e)) + sigmoid(-z) (log sigmoid(-z) - log e).

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        beta: Strength of the pull towards the reference, per nat.
        label_smoothing: e, probability in (0, 0.5) that a preference label is flipped; 0 would ask for log 0.

    Returns:
        Loss [P]. Where policy equals reference every loss is -ln 2 - ln(e (1 - e)) / 2.

    Raises:
        ValueError: The scores are not [P, 2].
    """
    z = beta * margin(scores)
    right = z.sigmoid() * (logsigmoid(z) - math.log1p(-label_smoothing))
    return right + (-z).sigmoid() * (logsigmoid(-z) - math.log(label_smoothing))
