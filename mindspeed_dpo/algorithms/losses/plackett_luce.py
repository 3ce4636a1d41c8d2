"""The Plackett-Luce loss of a reward model, for more than two ranked responses."""

from __future__ import annotations

import torch
from torch import Tensor


def plackett_luce_loss(scores: Tensor) -> Tensor:
    """Negative log-likelihood of a ranking, by Luce 1959 and Plackett 1975 (equation 18 of arXiv:2305.18290).

    The sum over places k of log(sum of exp(r_j) over j >= k) - r_k; of two responses it is the Bradley-Terry loss.

    Args:
        scores: [P, K] float32 or float64, scores r of K responses, the best response first.

    Returns:
        Loss of each ranking, [P] in the dtype of the scores. Where all scores are equal it is ln K!.
    """
    of_the_rest = torch.stack([scores[:, place:].logsumexp(1) for place in range(scores.shape[1])], 1)
    return (of_the_rest - scores).sum(1)
