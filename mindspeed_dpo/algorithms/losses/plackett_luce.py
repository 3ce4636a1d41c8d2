"""The Plackett-Luce loss of a reward model, for more than two ranked responses."""

from __future__ import annotations

import torch
from torch import Tensor


def plackett_luce_loss(scores: Tensor, present: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of a ranking, by Luce 1959 and Plackett 1975 (equation 18 of arXiv:2305.18290).

    The sum over places k of log(sum of exp(r_j) over j >= k) - r_k; of two responses it is the Bradley-Terry loss.

    Args:
        scores: [P, K] float32 or float64, scores r of K responses, the best response first.
        present: [P, K] bool, which responses there are: the first ones of each row. None for all.

    Returns:
        Loss of each ranking, [P] in the dtype of the scores. Where all scores of n responses are equal it is ln n!.
    """
    if present is None:
        present = torch.ones_like(scores, dtype=torch.bool)
    # Finite, since the gradient of log(exp(-inf)) is not.
    known = scores.masked_fill(~present, torch.finfo(scores.dtype).min)
    of_the_rest = torch.stack([known[:, place:].logsumexp(1) for place in range(scores.shape[1])], 1)
    return torch.where(present, of_the_rest - known, torch.zeros_like(known)).sum(1)
