"""Binary classification of responses, as pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import log_ratios


def bco_pair_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """BCO loss for pairs, of Jung et al. 2024 (arXiv:2404.04656), without the shift by a running mean.

    -log sigmoid(beta r_w) - log sigmoid(-beta r_l), as in TRL 1.16.

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
    return -logsigmoid(rewards[:, 0]) - logsigmoid(-rewards[:, 1])
