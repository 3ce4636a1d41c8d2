"""Binary classification of responses, as pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import check_pairs


def bco_pair_loss(ratios: Tensor, *, beta: float) -> Tensor:
    """BCO loss for pairs, of Jung et al. 2024 (arXiv:2404.04656), without the shift by a running mean.

    -log sigmoid(beta r_w) - log sigmoid(-beta r_l), as in TRL 1.16.

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
    return -logsigmoid(rewards[:, 0]) - logsigmoid(-rewards[:, 1])
