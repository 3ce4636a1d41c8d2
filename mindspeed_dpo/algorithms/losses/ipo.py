"""Identity preference optimisation, normalised by length."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.ratios import log_ratios, per_token


def ipo_loss(policy_logps: Tensor, ref_logps: Tensor, lengths: Tensor, *, beta: float) -> Tensor:
    """IPO loss (r_w/n_w - r_l/n_l - 1/(2 beta))^2, after equation 17 of Azar et al. 2023 (arXiv:2310.12036).

    Log-ratios are means per token, as TRL and MindSpeed-LLM do offline, so that one beta serves responses of any
    length. The form with sums is this one with all lengths 1.

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        lengths: [P, 2] response tokens, integers; 0 counts as 1.
        beta: Inverse of twice the wanted margin per token in nats.

    Returns:
        Loss [P]. Where policy equals reference every loss is 1 / (4 beta^2).

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    scores = per_token(log_ratios(policy_logps, ref_logps), lengths)
    return (scores[:, 0] - scores[:, 1] - 1 / (2 * beta)) ** 2
