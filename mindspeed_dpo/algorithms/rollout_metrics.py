"""What an online step says about its answers: scores, lengths, ends, distance to the reference. Plain numbers."""

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
    ref_logps: NDArray[np.float32] | None,
    *,
    beta: float,
    version: int,
    own: int | None = None,
) -> dict[str, float]:
    """Metrics of P prompts with K responses each, by the names of the metric table.

    Args:
        rollouts: The responses.
        scores: [P, K] float32 that decided the pairs; NaN where a response could not be scored.
        selection: The pairs.
        ref_logps: [P, at least `own`] float32 of the reference, in nats.
        beta: Of this step, per nat.
        version: Of the policy that learns from them.
        own: How many responses are the policy's, the first ones; None for all. What is said of responses is said of
            these, what is said of pairs of all.
    """
    found = {**_scores(scores, selection, own), **_pairs(selection), **_lengths(rollouts, own)}
    found["val/contain_eos_token"] = float(rollouts.ended[:, :own].float().mean())
    found["pairs/staleness"] = float(version - rollouts.version)
    if rollouts.logps is not None and ref_logps is not None:
        logps = rollouts.logps.numpy()[:, :own]
        found.update(_objective(logps, ref_logps[:, :own], found.get("objective/scores"), beta))
    return found


def _scores(scores: NDArray[np.float32], selection: Selection, own: int | None) -> dict[str, float]:
    """Of the policy's responses that have one, and of the pairs."""
    ours = scores[:, :own]
    scored = ours[np.isfinite(ours)].astype(np.float64)
    found: dict[str, float] = {}
    if len(scored):
        mean = float(scored.mean())
        found = {"objective/scores": mean, "reward/score/mean": mean, "reward/score/std": float(scored.std())}
        found.update({"reward/score/max": float(scored.max()), "reward/score/min": float(scored.min())})
    if len(selection):
        pairs = selection.of(scores).astype(np.float64)
        found["objective/scores_margin"] = float((pairs[:, 0] - pairs[:, 1]).mean())
    return found


def _pairs(selection: Selection) -> dict[str, float]:
    """Shares of all pairs that were looked at."""
    whole = max(selection.candidates, 1)
    return {
        "pairs/count": len(selection),
        "pairs/ties": selection.left_out.get(TIE, 0) / whole,
        "pairs/failed": selection.left_out.get(FAILED, 0) / whole,
        "pairs/dropped": (selection.candidates - len(selection)) / whole,
    }


def _lengths(rollouts: RolloutBatch, own: int | None) -> Mapping[str, float]:
    found = {}
    answers = rollouts.samples
    for name, counts in (("prompt", answers.prompt_lengths), ("response", answers.response_lengths[:, :own])):
        lengths = counts.double()
        for what in ("mean", "max", "min"):
            found[f"{name}_length/{what}"] = float(getattr(lengths, what)())
    return found


def _objective(
    logps: NDArray[np.float32], ref_logps: NDArray[np.float32], score: float | None, beta: float
) -> dict[str, float]:
    """KL by what was sampled, a mean over responses of sums over their tokens."""
    kl = float((logps.astype(np.float64) - ref_logps).mean())
    found = {
        "objective/kl": kl,
        "objective/entropy": float(-logps.astype(np.float64).mean()),
        "objective/non_score_reward": -beta * kl,
    }
    if score is not None:
        found["objective/rlhf_reward"] = score - beta * kl
    return found
