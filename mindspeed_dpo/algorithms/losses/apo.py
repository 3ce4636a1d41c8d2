"""Anchored preference optimisation: where the chosen response should go, not only the margin."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import check_pairs


def apo_zero_loss(ratios: Tensor, *, beta: float) -> Tensor:
    """APO-zero of D'Oosterlinck et al. 2024 (arXiv:2408.06266): chosen up, rejected down.

    1 - sigmoid(beta r_w) + sigmoid(beta r_l). For data that is better than the policy.

    Args:
        ratios: [P, 2] float32, log-ratio of policy to reference per response, in nats.
        beta: Strength of the pull towards the reference, per nat.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1.

    Raises:
        ValueError: The ratios are not [P, 2].
    """
    check_pairs("ratios", ratios)
    rewards = beta * ratios
    return 1 - rewards[:, 0].sigmoid() + rewards[:, 1].sigmoid()


def apo_down_loss(ratios: Tensor, *, beta: float) -> Tensor:
    """APO-down of D'Oosterlinck et al. 2024 (arXiv:2408.06266): both down, rejected more.

    sigmoid(beta r_w) + 1 - sigmoid(beta (r_w - r_l)). For data that is worse than the policy; at the reference the
    chosen response gets no gradient.

    Args:
        ratios: [P, 2] float32, log-ratio of policy to reference per response, in nats.
        beta: Strength of the pull towards the reference, per nat.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1.

    Raises:
        ValueError: The ratios are not [P, 2].
    """
    check_pairs("ratios", ratios)
    rewards = beta * ratios
    return rewards[:, 0].sigmoid() + 1 - (rewards[:, 0] - rewards[:, 1]).sigmoid()
