"""Statistics of response tokens: entropy, top-1 accuracy, negative log-likelihood and mean logits."""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.batches.logprob_columns import ENTROPY, LOGP, MEAN_LOGIT, TOP1_HIT
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.observability.metric_sums import MetricSums


def token_statistics(batch: PackedBatch, columns: Tensor) -> MetricSums:
    """Sum the token metrics: entropy of all responses, accuracy and NLL of the chosen, mean logits of each kind.

    A single response counts as chosen.

    Args:
        batch: The micro-batch.
        columns: [R, 5] float32 of the head.
    """
    values = columns.detach()
    count = batch.response_lengths.shape[1]
    is_chosen = (batch.response_ids % count == 0).to(values.dtype)
    weight = batch.weights[batch.response_ids // count]
    parts = {
        "entropy": (values[:, ENTROPY], weight),
        "mean_token_accuracy": (values[:, TOP1_HIT], weight * is_chosen),
        "nll": (-values[:, LOGP], weight * is_chosen),
        "logits/chosen": (values[:, MEAN_LOGIT], weight * is_chosen),
        "logits/rejected": (values[:, MEAN_LOGIT], weight * (1 - is_chosen)),
    }
    of_tokens, shares = (torch.stack(columns_of, 1) for columns_of in zip(*parts.values(), strict=True))
    return MetricSums.of(parts, total(of_tokens * shares), total(shares))
