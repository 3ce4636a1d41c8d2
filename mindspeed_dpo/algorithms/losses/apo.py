"""Anchored preference optimisation: where the chosen response should go, not only the margin."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import log_ratios


def apo_zero_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """APO-zero of D'Oosterlinck et al. 2024 (arXiv:2408.06266): chosen up, rejected down.

    1 - sigmoid(beta r_w) + sigmoid(beta r_l). For data that is better than the policy.

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        beta: Strength of the pull towards the reference, per nat.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1.

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    rewards = beta * log_ratios(policy_logps, ref_logps)
    return 1 - rewards[:, 0].sigmoid() + rewards[:, 1].sigmoid()


def apo_down_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """APO-down of D'Oosterlinck et al. 2024 (arXiv:2408.06266): both down, rejected more.

    sigmoid(beta r_w) + 1 - sigmoid(beta (r_w - r_l)). For data that is worse than the policy; at the reference the
    chosen response gets no gradient.

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        beta: Strength of the pull towards the reference, per nat.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1.

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    rewards = beta * log_ratios(policy_logps, ref_logps)
    return rewards[:, 0].sigmoid() + 1 - (rewards[:, 0] - rewards[:, 1]).sigmoid()
