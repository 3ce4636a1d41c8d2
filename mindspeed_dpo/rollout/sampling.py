"""Sampling of tokens: Hugging Face's logits filters in their order, and one uniform number per token.

All functions are stateless. The uniform numbers of a response are a function of (seed, sample number, k), and a token
is the inverse of the cumulative distribution at its number, so a response is independent of all others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.rollout.repetition_penalty import penalized

HIDDEN = float("-inf")
_WORD = (1 << 64) - 1
# Number of columns summed in float32; sums of these are formed in float64.
_RUN = 128
# On the host a few rows at a time, so that temporaries stay in the processor's cache.
_HOST_ELEMENTS = 1 << 17
INVALID = -1
"""Token id returned for a row whose logits are not finite."""


def uniforms(seed: int, sample_number: int, k: int, count: int) -> np.ndarray:
    """Draw the numbers of response k: [count] float64 in [0, 1), from the counter-based Philox generator, unitless."""
    key = np.array([seed & _WORD, sample_number & _WORD], dtype=np.uint64)
    # The highest word of the counter separates the streams of a prompt's responses.
    counter = np.array([0, 0, 0, k], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random(count)


def draw(
    logits: Tensor, numbers: Tensor, settings: RolloutConfig, seen: Tensor | None, with_logps: bool
) -> tuple[Tensor, Tensor]:
    """Sample the next token of each row.

    Args:
        logits: [R, V] float32 logits.
        numbers: [R] float64 uniform numbers.
        settings: Penalty, temperature and filters.
        seen: [R, V] bool mask of earlier tokens, or None.
        with_logps: Whether to compute log-probabilities.

    Returns:
        Token ids [R] int64 as from `choose`, and their log-probabilities [R] float32 in nats, zero unless requested.
    """
    rows = max(1, _HOST_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    tokens, logps = [], []
    for start in range(0, len(logits), rows):
        end = min(start + rows, len(logits))
        # Several threads divide the sums of a row that is the only one, but not those of a row that is there twice.
        take = [start, start] if end - start == 1 < rows else slice(start, end)
        part = logits[take].contiguous()
        chosen = choose(part, numbers[take], settings, None if seen is None else seen[take])
        logp = log_probs(part, chosen) if with_logps else torch.zeros_like(part[:, 0])
        tokens.append(chosen[: end - start])
        logps.append(logp[: end - start])
    return torch.cat(tokens), torch.cat(logps)


def choose(logits: Tensor, numbers: Tensor, settings: RolloutConfig, seen: Tensor | None = None) -> Tensor:
    """Choose the next token of each row.

    Args:
        logits: [R, V] float32 logits; not modified.
        numbers: [R] float64 in [0, 1).
        settings: Penalty, temperature and filters.
        seen: [R, V] bool mask of tokens that occurred in prompt or response; required for a repetition penalty.

    Returns:
        Token ids [R] int64; `INVALID` where logits are not finite.
    """
    if seen is not None and settings.repetition_penalty != 1:
        logits = penalized(logits, seen, settings.repetition_penalty)
    # A single new tensor: on the host, allocating another costs as much as the arithmetic.
    scores = logits.sub(logits.amax(-1, keepdim=True)).div_(settings.temperature)
    return invert(filter_scores(scores, settings).exp_(), numbers)


def filter_scores(scores: Tensor, settings: RolloutConfig) -> Tensor:
    """Apply top-k, top-p and min-p in this order; each filter sees the distribution that the one before left, as in HF.

    Args:
        scores: [R, V] float32 logits over temperature, up to a constant per row.
        settings: The filters.

    Returns:
        [R, V] float32 scores, minus infinity for tokens that are filtered out.
    """
    if settings.top_k:
        least = scores.topk(min(settings.top_k, scores.shape[-1])).values[:, -1:]
        scores = scores.masked_fill(scores < least, HIDDEN)
    if settings.top_p < 1:
        scores = _within_mass(scores, settings.top_p)
    if settings.min_p > 0:
        probs = scores.softmax(-1)
        scores = scores.masked_fill(probs < settings.min_p * probs.amax(-1, keepdim=True), HIDDEN)
    return scores


def _within_mass(scores: Tensor, mass: float) -> Tensor:
    """Keep the most likely tokens up to a total probability, including the one that reaches it (top-p)."""
    ordered, order = scores.sort()
    beyond = ordered.softmax(-1).cumsum(-1) <= 1 - mass
    beyond[:, -1] = False
    return scores.masked_fill(beyond.scatter(1, order, beyond), HIDDEN)


def invert(weights: Tensor, numbers: Tensor) -> Tensor:
    """Invert the cumulative distribution: the first column whose cumulative weight exceeds number times total.

    Short runs of columns are summed in float32, as exact as the weights; their sums are accumulated in float64. A
    column of weight zero is never returned.

    Args:
        weights: [R, V] float32 unnormalised probabilities.
        numbers: [R] float64 in [0, 1).

    Returns:
        Column indices [R] int64; `INVALID` where the total is not finite or zero.
    """
    missing = -weights.shape[1] % _RUN
    runs = (torch.nn.functional.pad(weights, (0, missing)) if missing else weights).unflatten(1, (-1, _RUN))
    sums = runs.sum(-1).double()
    cumulative = sums.cumsum(-1)
    total = cumulative[:, -1:]
    target = numbers[:, None] * total
    run = _first_above(cumulative, target)
    own = sums.gather(1, run)
    # Position within the run as a fraction of it, since its exact sum differs slightly from the float32 one.
    share = (target - (cumulative.gather(1, run) - own)) / own
    inside = runs.gather(1, run[:, :, None].expand(-1, -1, _RUN))[:, 0].double().cumsum(-1)
    column = run * _RUN + _first_above(inside, share * inside[:, -1:])
    return column.where(total.isfinite() & (total > 0), INVALID)[:, 0]


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """Find the first column [R, 1] of [R, n] above the target [R, 1]; if rounding leaves none, the last with weight."""
    above = (cumulative <= target).sum(-1, keepdim=True)
    return above.minimum((cumulative < cumulative[:, -1:]).sum(-1, keepdim=True))


def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Compute the log-probability [R] float32, in nats, of tokens [R] int64 under logits [R, V] float32, unfiltered."""
    top = logits.amax(-1, keepdim=True)
    total = logits.sub(top).exp_().sum(-1).log_()
    return logits.gather(1, tokens.clamp(min=0)[:, None]).sub_(top)[:, 0] - total
