"""Noise-contrastive alignment for pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import check_pairs


def nca_pair_loss(ratios: Tensor, *, beta: float) -> Tensor:
    """NCA loss for pairs, of Chen et al. 2024 (arXiv:2402.05369): each response against noise, not only the other.

    -log sigmoid(beta r_w) - log sigmoid(-beta r_w) / 2 - log sigmoid(-beta r_l) / 2.

    Args:
        ratios: [P, 2] float32, log-ratio of policy to reference per response, in nats.
        beta: Strength of the pull towards the reference, per nat.

    Returns:
        Loss [P]. Where policy equals reference every loss is 2 ln 2.

    Raises:
        ValueError: The ratios are not [P, 2].
    """
    check_pairs("ratios", ratios)
    rewards = beta * ratios
    chosen, rejected = rewards.unbind(1)
    return -logsigmoid(chosen) - (logsigmoid(-chosen) + logsigmoid(-rejected)) / 2
