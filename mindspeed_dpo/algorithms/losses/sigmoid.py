"""The DPO loss with optional label smoothing (conservative DPO), and its length-normalised form."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin, per_token
from mindspeed_dpo.config.settings.loss import LossConfig


def sigmoid_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """Sigmoid DPO loss, equation 7 of Rafailov et al. 2023 (arXiv:2305.18290).

    With z = beta (s_w - s_l) and smoothing e: -(1 - e) log sigmoid(z) - e log sigmoid(-z).

    Args:
        terms: `scores` s and `beta`; typical 0.1 to 0.5.
        settings: `dpo_label_smoothing` e, the probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is ln 2, for any beta and e.
    """
    return smoothed_logistic(terms.beta * margin(terms.scores), settings.dpo_label_smoothing)


def sigmoid_norm_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """Sigmoid loss of scores per token: -log sigmoid(beta (s_w / n_w - s_l / n_l)), as TRL's `sigmoid_norm`.

    Args:
        terms: `scores` s, `lengths` n (0 counts as 1) and `beta`, per nat and token: larger than for summed scores.
        settings: Not read.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is ln 2.
    """
    return -logsigmoid(terms.beta * margin(per_token(terms.scores, terms.lengths)))


def smoothed_logistic(z: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy of a preference whose label is flipped with probability e: -(1 - e) log s(z) - e log s(-z).

    Args:
        z: [P] float32 or float64, logits of "chosen is preferred"; s is the sigmoid.
        label_smoothing: e.
    """
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)
