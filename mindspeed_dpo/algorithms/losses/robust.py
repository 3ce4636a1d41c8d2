"""DPO whose expected loss is unbiased under random label flips."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin
from mindspeed_dpo.config.settings.loss import LossConfig


def robust_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """Robust DPO loss of Chowdhury et al. 2024 (arXiv:2403.00409).

    With z = beta (s_w - s_l) and flip probability e: (-(1 - e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2 e).

    Args:
        terms: `scores` s and `beta`.
        settings: `dpo_label_smoothing` e, the probability in [0, 0.5) that a preference label is flipped.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is ln 2, for any beta and e.
    """
    z, label_smoothing = terms.beta * margin(terms.scores), settings.dpo_label_smoothing
    return (-(1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)) / (1 - 2 * label_smoothing)
