"""Weights of WPO: pairs count by how likely the policy is to generate them (Zhou et al. 2024, arXiv:2406.11827)."""

from __future__ import annotations

from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.batches.logprob_columns import LOG_COLLISION, LOGP


def wpo_weights(batch: PackedBatch, columns: Tensor, *, clamp: bool = False) -> Tensor:
    """Weight each pair by how likely the policy is to generate it: [P] float32 or float64, without gradient.

    The product over both responses of exp(mean over tokens of log p - log(sum of p^2)): equation 5 of Zhou et al. 2024
    (WPO, arXiv:2406.11827).

    Args:
        batch: The micro-batch.
        columns: [R, 5] float32 of the head.
        clamp: Clamp the weights at 1, as TRL 0.24 does.
    """
    values = columns.detach()
    sums = batch.sum_by_response(values[:, LOGP] - values[:, LOG_COLLISION])
    product = (sums / batch.response_lengths.clamp(min=1)).sum(1).exp()
    return product.clamp(max=1) if clamp else product
