"""Metrics of the responses of an online step: scores, lengths, ends, KL divergence from the reference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.algorithms.pairing import FAILED, TIE, Selection
from mindspeed_dpo.batches import RolloutBatch


def rollout_metrics(
    rollouts: RolloutBatch,
    scores: NDArray[np.float32],
    selection: Selection,
    ref_logps: NDArray[np.floating] | None,
    *,
    beta: float,
    version: int,
    own: int | None = None,
) -> dict[str, float]:
    """Compute the metrics of P prompts with K responses each, by their names in the metric table.

    Args:
        rollouts: The responses.
        scores: [P, K] float32 by which the pairs were selected; NaN where a response could not be scored.
        selection: The pairs.
        ref_logps: [P, at least `own`] float64 log-probabilities of the reference, in nats.
        beta: Beta of this step, per nat.
        version: Version of the policy that trains on them.
        own: Number of responses per prompt, the first ones, that are the policy's; None for all. Metrics of responses
            cover these, metrics of pairs all.
    """
    metrics = {**_scores(scores, selection, own), **_pairs(selection), **_lengths(rollouts, own)}
    metrics["val/contain_eos_token"] = float(rollouts.ended[:, :own].float().mean())
    metrics["pairs/staleness"] = float(version - rollouts.version)
    if rollouts.logps is not None and ref_logps is not None:
        logps = rollouts.logps.numpy()[:, :own]
        metrics.update(_objective(logps, ref_logps[:, :own], metrics.get("objective/scores"), beta))
    return metrics


def _scores(scores: NDArray[np.float32], selection: Selection, own: int | None) -> dict[str, float]:
    """Return the metrics of the scores of the policy's responses and of the pairs."""
    ours = scores[:, :own]
    scored = ours[np.isfinite(ours)].astype(np.float64)
    metrics: dict[str, float] = {}
    if len(scored):
        mean = float(scored.mean())
        metrics = {"objective/scores": mean, "reward/score/mean": mean, "reward/score/std": float(scored.std())}
        metrics.update({"reward/score/max": float(scored.max()), "reward/score/min": float(scored.min())})
    if len(selection):
        pairs = selection.of(scores).astype(np.float64)
        metrics["objective/scores_margin"] = float((pairs[:, 0] - pairs[:, 1]).mean())
    return metrics


def _pairs(selection: Selection) -> dict[str, float]:
    """Return the shares of dropped candidate pairs, by reason."""
    num_candidates = max(selection.candidates, 1)
    return {
        "pairs/count": len(selection),
        "pairs/ties": selection.left_out.get(TIE, 0) / num_candidates,
        "pairs/failed": selection.left_out.get(FAILED, 0) / num_candidates,
        "pairs/dropped": (selection.candidates - len(selection)) / num_candidates,
    }


def _lengths(rollouts: RolloutBatch, own: int | None) -> Mapping[str, float]:
    metrics = {}
    samples = rollouts.samples
    for name, counts in (("prompt", samples.prompt_lengths), ("response", samples.response_lengths[:, :own])):
        lengths = counts.double()
        for what in ("mean", "max", "min"):
            metrics[f"{name}_length/{what}"] = float(getattr(lengths, what)())
    return metrics


def _objective(
    logps: NDArray[np.floating], ref_logps: NDArray[np.floating], score: float | None, beta: float
) -> dict[str, float]:
    """Estimate KL divergence and objective from the samples: sums over tokens, means over responses."""
    kl = float((logps.astype(np.float64) - ref_logps).mean())
    metrics = {
        "objective/kl": kl,
        "objective/entropy": float(-logps.astype(np.float64).mean()),
        "objective/non_score_reward": -beta * kl,
    }
    if score is not None:
        metrics["objective/rlhf_reward"] = score - beta * kl
    return metrics
