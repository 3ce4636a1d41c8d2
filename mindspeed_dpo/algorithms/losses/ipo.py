"""Identity preference optimisation, with or without length normalisation."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, margin, per_token
from mindspeed_dpo.config.settings.loss import LossConfig


def ipo_loss(terms: PairTerms, settings: LossConfig) -> Tensor:
    """IPO loss (s_w/n_w - s_l/n_l - 1/(2 beta))^2, after equation 17 of Azar et al. 2023 (arXiv:2310.12036).

    Normalised, scores are means per token, as in TRL and MindSpeed-LLM offline, so that one beta serves responses of
    any length; otherwise they are sums, as in both online and in the paper.

    Args:
        terms: `scores` s, `lengths` n (0 counts as 1) and `beta`, the inverse of twice the target margin in nats, per
            token where normalised.
        settings: `ipo_normalize` divides the scores by the lengths.

    Returns:
        Loss of each pair, [P] in the dtype of the scores. Where policy equals reference it is 1 / (4 beta^2).

    Raises:
        ValueError: Scores and lengths differ in shape.
    """
    target = 1 / (2 * terms.beta)
    scores = per_token(terms.scores, terms.lengths) if settings.ipo_normalize else terms.scores
    return (margin(scores) - target) ** 2
