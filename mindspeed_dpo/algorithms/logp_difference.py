"""The difference between the log-probabilities of sampled tokens at the rollout and at the trained model.

Both are of the same weights with `rollout_staleness: 0`, so a difference beyond rounding is an early sign that engine
and trainer do not compute the same model: stale or incomplete weights, other numerics, another template.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.device.ops import total
from mindspeed_dpo.observability.metric_sums import MetricSums

MEAN, MAX, K3 = "rollout/logp_diff/mean", "rollout/logp_diff/max", "rollout/logp_diff/k3"


def logp_difference(batch: PackedBatch, columns: Tensor) -> tuple[MetricSums, Tensor]:
    """Compare the policy's log-probabilities of tokens with those of the rollout that sampled them.

    K3 is the estimate r - 1 - log r of the KL divergence of the rollout from the policy, with r the ratio of the
    policy's probability of a token to the rollout's (Schulman 2020, http://joschu.net/blog/kl-approx.html).

    Args:
        batch: The micro-batch, with `rollout_token_logps`.
        columns: [R, 1 or 5] float32 of the head.

    Returns:
        Sums over tokens of the absolute difference and of K3, and the largest absolute difference: scalar float32, in
        nats. Tokens that another model sampled are left out.
    """
    assert batch.rollout_token_logps is not None
    log_ratio = columns[:, LOGP].detach() - batch.rollout_token_logps
    is_known = ~log_ratio.isnan()
    weight = batch.weights[batch.response_ids // batch.response_lengths.shape[1]] * is_known
    log_ratio = log_ratio.where(is_known, torch.zeros_like(log_ratio))
    distance = log_ratio.abs()
    of_tokens = torch.stack([distance, log_ratio.expm1() - log_ratio], 1)
    weights = torch.stack([weight, weight], 1)
    return MetricSums.of((MEAN, K3), total(of_tokens * weights), total(weights)), (distance * weight).amax()
