"""LD-DPO: tokens by which a response is longer than the other of its pair count less (Liu et al. 2024).

arXiv:2409.06411, equation 9.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch


def excess_weights(batch: PackedBatch, alpha: float) -> Tensor:
    """Weight each label: `alpha` past the length of the shorter response of its pair, else 1; [R] float32."""
    lengths = batch.response_lengths.flatten()
    places = torch.arange(len(batch.labels), device=batch.labels.device)
    places = places - (lengths.cumsum(0) - lengths)[batch.response_ids]
    shorter = batch.response_lengths.amin(1, keepdim=True).expand_as(batch.response_lengths).flatten()
    return torch.where(places < shorter[batch.response_ids], 1.0, alpha)
