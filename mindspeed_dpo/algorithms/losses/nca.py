"""Noise-contrastive alignment for pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import log_ratios


def nca_pair_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """NCA loss for pairs, of Chen et al. 2024 (arXiv:2402.05369): each response against noise, not only the other.

    -log sigmoid(beta r_w) - log sigmoid(-beta r_w) / 2 - log sigmoid(-beta r_l) / 2.

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        beta: Strength of the pull towards the reference, per nat.

    Returns:
        Loss [P]. Where policy equals reference every loss is 2 ln 2.

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    rewards = beta * log_ratios(policy_logps, ref_logps)
    chosen, rejected = rewards.unbind(1)
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
