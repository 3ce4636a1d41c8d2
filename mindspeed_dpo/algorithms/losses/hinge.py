"""Hinge loss on the scaled margin."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu

from mindspeed_dpo.algorithms.losses.ratios import log_ratios


def hinge_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """Hinge loss max(0, 1 - z) with z = beta (r_w - r_l), after Zhao et al. 2023 (SLiC, arXiv:2305.10425).

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        beta: Inverse of the margin in nats from which on a pair costs nothing.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1.

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    ratios = log_ratios(policy_logps, ref_logps)
    return relu(1 - beta * (ratios[:, 0] - ratios[:, 1]))
