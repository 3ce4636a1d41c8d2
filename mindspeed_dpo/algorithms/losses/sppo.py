"""Self-play preference optimisation with hard labels."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import log_ratios


def sppo_hard_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float) -> Tensor:
    """SPPO loss with win probabilities 1 and 0, after Wu et al. 2024 (arXiv:2405.00675).

    (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2.

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        beta: Inverse of twice the wanted log-ratio in nats.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1 / (2 beta^2).

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    ratios = log_ratios(policy_logps, ref_logps)
    target = 1 / (2 * beta)
    return (ratios[:, 0] - target) ** 2 + (ratios[:, 1] + target) ** 2
