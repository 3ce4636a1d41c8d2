"""The DPO loss itself, with optional label smoothing (conservative DPO), and its form normalised by length."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import log_ratios, per_token


def sigmoid_loss(policy_logps: Tensor, ref_logps: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Sigmoid DPO loss, equation 7 of Rafailov et al. 2023 (arXiv:2305.18290).

    With z = beta (r_w - r_l) and smoothing e: -(1 - e) log sigmoid(z) - e log sigmoid(-z).

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        beta: Strength of the pull towards the reference, per nat; typical 0.1 to 0.5.
        label_smoothing: Probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2, for any beta and smoothing.

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    ratios = log_ratios(policy_logps, ref_logps)
    z = beta * (ratios[:, 0] - ratios[:, 1])
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)


def sigmoid_norm_loss(policy_logps: Tensor, ref_logps: Tensor, lengths: Tensor, *, beta: float) -> Tensor:
    """Sigmoid loss of log-ratios per token: -log sigmoid(beta (r_w / n_w - r_l / n_l)), as TRL's `sigmoid_norm`.

    Args:
        policy_logps: [P, 2] float32, summed response log-probabilities of the policy, in nats.
        ref_logps: [P, 2] float32, the same from the frozen reference.
        lengths: [P, 2] response tokens, integers; 0 counts as 1.
        beta: Strength of the pull towards the reference, per nat and token; larger than for summed log-ratios.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2.

    Raises:
        ValueError: The inputs differ in shape or are not [P, 2].
    """
    scores = per_token(log_ratios(policy_logps, ref_logps), lengths)
    return -logsigmoid(beta * (scores[:, 0] - scores[:, 1]))
