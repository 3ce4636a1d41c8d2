"""Self-play preference optimisation with hard labels."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import check_pairs


def sppo_hard_loss(ratios: Tensor, *, beta: float) -> Tensor:
    """SPPO loss with win probabilities 1 and 0, after Wu et al. 2024 (arXiv:2405.00675).

    (r_w - 1 / (2 beta))^2 + (r_l + 1 / (2 beta))^2.

    Args:
        ratios: [P, 2] float32, log-ratio of policy to reference per response, in nats.
        beta: Inverse of twice the wanted log-ratio in nats.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1 / (2 beta^2).

    Raises:
        ValueError: The ratios are not [P, 2].
    """
    check_pairs("ratios", ratios)
    target = 1 / (2 * beta)
    return (ratios[:, 0] - target) ** 2 + (ratios[:, 1] + target) ** 2
