"""Metrics of greedy responses to held-out prompts: win rate against the reference, scores, lengths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import RolloutBatch

POLICY, REFERENCE = 0, 1
"""Index of the response of the policy and of the reference."""


def win_rate(scores: NDArray[np.floating]) -> float | None:
    """Return the share of prompts on which the policy's response scores higher; ties count half.

    Args:
        scores: [P, 2] float32 or float64 scores of policy and reference; rows that are not finite are left out.

    Returns:
        None where no prompt was scored.
    """
    scored = scores[np.isfinite(scores).all(axis=1)]
    if not len(scored):
        return None
    policy, reference = scored[:, POLICY], scored[:, REFERENCE]
    return float((policy > reference).mean() + 0.5 * (policy == reference).mean())


def greedy_metrics(rollouts: RolloutBatch, scores: NDArray[np.float32]) -> dict[str, float]:
    """Compute the metrics of P prompts by their names in the metric table.

    Args:
        rollouts: The response of the policy and that of the reference to each prompt.
        scores: [P, 2] float32; NaN where a prompt could not be scored. Without a scored prompt, metrics of scores are
            missing.
    """
    metrics = {
        "response_length/mean": float(rollouts.samples.response_lengths[:, POLICY].double().mean()),
        "val/contain_eos_token": float(rollouts.ended[:, POLICY].double().mean()),
    }
    rate = win_rate(scores)
    if rate is None:
        return metrics
    scored = scores[np.isfinite(scores).all(axis=1)].astype(np.float64)
    return {"win_rate": rate, "reward/score/mean": float(scored[:, POLICY].mean()), **metrics}
