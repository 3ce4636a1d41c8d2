"""Hinge loss on the scaled margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from mindspeed_dpo.algorithms.losses.ratios import margin


def hinge_loss(scores: Tensor, *, beta: float) -> Tensor:
    """Hinge loss max(0, 1 - z) with z = beta (r_w - r_l), after Zhao et al. 2023 (SLiC, arXiv:2305.10425).

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        beta: Inverse of the margin in nats from which on a pair costs nothing.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1.

    Raises:
        ValueError: The scores are not [P, 2].
    """
    return relu(1 - beta * margin(scores))
