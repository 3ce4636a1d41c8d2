"""From logits to tokens: Hugging Face's filters in their order, and one uniform number per token.

Nothing here keeps state. The uniform numbers of a response are a function of (seed, sample number, k), and a token is
the inverse of the cumulative distribution at its number; so a response depends on nothing else that is sampled.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mindspeed_dpo.config.settings.online import RolloutConfig

HIDDEN = float("-inf")
_WORD = (1 << 64) - 1
# Columns that are summed in float32 before sums go on in float64.
_RUN = 128
# On the host a few rows at a time, so that what is made of their logits stays in the processor's cache.
_HOST_ELEMENTS = 1 << 17
INVALID = -1
"""The token of a row whose logits are not finite."""


def uniforms(seed: int, sample_number: int, k: int, count: int) -> np.ndarray:
    """The numbers of response k: [count] float64 in [0, 1), of numpy's counter-based Philox generator."""
    key = np.array([seed & _WORD, sample_number & _WORD], dtype=np.uint64)
    # The highest word of the counter keeps the streams of a prompt's responses apart.
    counter = np.array([0, 0, 0, k], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random(count)


def draw(
    logits: Tensor, numbers: Tensor, settings: RolloutConfig, seen: Tensor | None, with_logps: bool
) -> tuple[Tensor, Tensor]:
    """Tokens [R] int64 of `choose` and their log-probabilities [R] float32, zero where they are not asked for."""
    rows = max(1, _HOST_ELEMENTS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    tokens, logps = [], []
    for start in range(0, len(logits), rows):
        part = logits[start : start + rows].contiguous()
        seen_part = None if seen is None else seen[start : start + rows]
        tokens.append(choose(part, numbers[start : start + rows], settings, seen_part))
        logps.append(log_probs(part, tokens[-1]) if with_logps else torch.zeros_like(part[:, 0]))
    return torch.cat(tokens), torch.cat(logps)


def choose(logits: Tensor, numbers: Tensor, settings: RolloutConfig, seen: Tensor | None = None) -> Tensor:
    """The next token of each row.

    Args:
        logits: [R, V] float32, left as they are.
        numbers: [R] float64 in [0, 1).
        settings: Penalty, temperature and filters.
        seen: [R, V] bool tokens that occurred in prompt or response; needed with a repetition penalty.

    Returns:
        [R] int64; `INVALID` where logits are not finite.
    """
    if seen is not None and settings.repetition_penalty != 1:
        logits = penalised(logits, seen, settings.repetition_penalty)
    # One new tensor of this size and no more: on the host a further one costs as much as the arithmetic on it.
    scores = logits.sub(logits.amax(-1, keepdim=True)).div_(settings.temperature)
    return invert(_cut(scores, settings).exp_(), numbers)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Positive logits of tokens that occurred divided by the penalty, negative ones multiplied (arXiv:1909.05858)."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def filtered(logits: Tensor, settings: RolloutConfig) -> Tensor:
    """Logits over temperature, then top-k, top-p and min-p; what is left out becomes minus infinity.

    Each filter sees the distribution that the one before left, as in Hugging Face.

    Args:
        logits: [R, V] float32.
        settings: Temperature and filters.

    Returns:
        [R, V] float32.
    """
    return _cut(logits / settings.temperature, settings)


def _cut(scores: Tensor, settings: RolloutConfig) -> Tensor:
    """Scores with minus infinity where a filter leaves out; unchanged by a constant added to all scores."""
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
    """Keep the likeliest tokens that reach a total probability, the one that passes it included."""
    ordered, order = scores.sort()
    beyond = ordered.softmax(-1).cumsum(-1) <= 1 - mass
    beyond[:, -1] = False
    return scores.masked_fill(beyond.scatter(1, order, beyond), HIDDEN)


def invert(weights: Tensor, numbers: Tensor) -> Tensor:
    """The column at which each row's cumulative weight first exceeds its number times the row's total.

    Short runs of columns are summed in float32, which is as exact as the weights are; all beyond that is float64. A
    column without weight is never returned.

    Args:
        weights: [R, V] float32, not negative.
        numbers: [R] float64 in [0, 1).

    Returns:
        [R] int64; `INVALID` where the total is not finite or zero.
    """
    missing = -weights.shape[1] % _RUN
    runs = (torch.nn.functional.pad(weights, (0, missing)) if missing else weights).unflatten(1, (-1, _RUN))
    sums = runs.sum(-1).double()
    cumulative = sums.cumsum(-1)
    total = cumulative[:, -1:]
    target = numbers[:, None] * total
    run = _first_above(cumulative, target)
    own = sums.gather(1, run)
    # Where in the run, as a share of it: its exact sum differs a little from the float32 one.
    share = (target - (cumulative.gather(1, run) - own)) / own
    inside = runs.gather(1, run[:, :, None].expand(-1, -1, _RUN))[:, 0].double().cumsum(-1)
    column = run * _RUN + _first_above(inside, share * inside[:, -1:])
    return column.where(total.isfinite() & (total > 0), INVALID)[:, 0]


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """[R, 1] first column of [R, n] above the target [R, 1], or, where rounding left none, the last that adds to it."""
    above = (cumulative <= target).sum(-1, keepdim=True)
    return above.minimum((cumulative < cumulative[:, -1:]).sum(-1, keepdim=True))


def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability [R] float32, in nats, of tokens [R] under logits [R, V]: temperature 1, no filter."""
    top = logits.amax(-1, keepdim=True)
    total = logits.sub(top).exp_().sum(-1).log_()
    return logits.gather(1, tokens.clamp(min=0)[:, None]).sub_(top)[:, 0] - total
