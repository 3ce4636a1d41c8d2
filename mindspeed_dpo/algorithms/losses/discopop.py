"""The loss that a search over losses found."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import bounded_exp, margin


def discopop_loss(scores: Tensor, *, beta: float, discopop_tau: float) -> Tensor:
    """DiscoPOP, the log-ratio modulated loss of Lu et al. 2024 (arXiv:2406.08414): logistic and exponential, blended.

    With z = beta (s_w - s_l) and m = sigmoid(z / tau): -(1 - m) log sigmoid(z) + m exp(-z). Close to z = 0 it pushes
    the chosen response down: its slope is positive there.

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        beta: Strength of the pull towards the reference, per nat.
        discopop_tau: Width of the blend; small values amplify rounding.

    Returns:
        Loss [P]. Where policy equals reference every loss is (ln 2 + 1) / 2.

    Raises:
        ValueError: The scores are not [P, 2].
    """
    z = beta * margin(scores)
    blend = (z / discopop_tau).sigmoid()
    return -(1 - blend) * logsigmoid(z) + blend * bounded_exp(-z)
