"""The DPO loss itself, with optional label smoothing (conservative DPO), and its form normalised by length."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.ratios import margin, per_token


def sigmoid_loss(scores: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Sigmoid DPO loss, equation 7 of Rafailov et al. 2023 (arXiv:2305.18290).

    With z = beta (r_w - r_l) and smoothing e: -(1 - e) log sigmoid(z) - e log sigmoid(-z).

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        beta: Strength of the pull towards the reference, per nat; typical 0.1 to 0.5.
        label_smoothing: Probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2, for any beta and smoothing.

    Raises:
        ValueError: The scores are not [P, 2].
    """
    return smoothed_logistic(beta * margin(scores), label_smoothing)


def sigmoid_norm_loss(scores: Tensor, lengths: Tensor, *, beta: float) -> Tensor:
    """Sigmoid loss of log-ratios per token: -log sigmoid(beta (r_w / n_w - r_l / n_l)), as TRL's `sigmoid_norm`.

    Args:
        scores: [P, 2] float32, log-ratio of policy to reference per response in nats, or its f-divergence score.
        lengths: [P, 2] response tokens, integers; 0 counts as 1.
        beta: Strength of the pull towards the reference, per nat and token; larger than for summed log-ratios.

    Returns:
        Loss [P]. Where policy equals reference every loss is ln 2.

    Raises:
        ValueError: The scores are not [P, 2].
    """
    return -logsigmoid(beta * margin(per_token(scores, lengths)))


def smoothed_logistic(z: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - e) log sigmoid(z) - e log sigmoid(-z): the cross-entropy of a preference whose label is flipped with e."""
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)
