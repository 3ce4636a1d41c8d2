"""The Bradley-Terry loss of a reward model, for one chosen and one rejected response."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import margin


def bradley_terry_loss(scores: Tensor, margins: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Negative log-likelihood of a preference, equation 1 of Ouyang et al. 2022 (arXiv:2203.02155).

    With z = r_c - r_r - m and smoothing e: -(1 - e) log sigmoid(z) - e log sigmoid(-z). The margin m is that of
    equation 2 of Touvron et al. 2023 (arXiv:2307.09288).

    Args:
        scores: [P, 2] float32 or float64, scores r of the chosen and of the rejected response.
        margins: [P] by how much the chosen score should exceed the rejected one; None for 0.
        smoothing: Probability e in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where the scores are equal it is ln 2, without a margin.

    Raises:
        ValueError: The scores are not [P, 2] in float32 or float64.
    """
    z = margin(scores) if margins is None else margin(scores) - margins
    loss = -logsigmoid(z)
    return loss if smoothing == 0 else (1 - smoothing) * loss - smoothing * logsigmoid(-z)
