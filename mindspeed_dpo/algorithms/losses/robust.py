"""DPO that stays unbiased when labels are flipped at random."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import margin


def robust_loss(scores: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Robust DPO loss of Chowdhury et al. 2024 (arXiv:2403.00409).

    With z = beta (r_w - r_l) and flip probability e: (-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2 e).

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        beta: Strength of the pull towards the reference, per nat.
        label_smoothing: e, probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2, for any beta and e.

    Raises:
        ValueError: The scores are not [P, 2].
    """
    z = beta * margin(scores)
    return (-(1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)) / (1 - 2 * label_smoothing)
