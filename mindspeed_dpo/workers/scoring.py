"""Log-probabilities of responses from the head's columns, and the statistics of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.models.head import ENTROPY, HIT, LOG_COLLISION, LOGP, MEAN_LOGIT
from mindspeed_dpo.observability.metrics import MetricSums
from mindspeed_dpo.parallel.topology import Place, shard
from mindspeed_dpo.workers.feed import Feed
from mindspeed_dpo.workers.roles import Logps, Pairs

# Micro-batches on the device at once while scoring; some, so that a pipeline has work for every stage.
HELD_MICRO_BATCHES = 16


class Engine(Protocol):
    """Whatever scores micro-batches."""

    def score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """The head's columns for each micro-batch; empty off the last stage."""


def response_logps(batch: PackedBatch, columns: Tensor, ld_alpha: float = 1.0) -> Tensor:
    """Log-probability of each response [P, K] float32, in nats.

    Below 1, `ld_alpha` is the weight of the tokens by which a response is longer than the other of its pair: equation 9
    of Liu et al. 2024 (LD-DPO, arXiv:2409.06411), for policy and reference alike.
    """
    values = columns[:, LOGP]
    return batch.sum_by_response(values if ld_alpha == 1 else values * batch.excess_weights(ld_alpha))


def agreement(batch: PackedBatch, columns: Tensor, *, clamp: bool = False) -> Tensor:
    """How much the policy would have written each pair itself: [P] float32, without gradient.

    The product over both responses of exp(mean over tokens of log p - log(sum of p^2)): equation 5 of Zhou et al. 2024
    (WPO, arXiv:2406.11827).

    Args:
        batch: The micro-batch.
        columns: [R, 5] of the head.
        clamp: Keep it at 1 or less, as TRL 0.24 does.
    """
    values = columns.detach()
    sums = batch.sum_by_response(values[:, LOGP] - values[:, LOG_COLLISION])
    product = (sums / batch.response_lengths.clamp(min=1)).sum(1).exp()
    return product.clamp(max=1) if clamp else product


def pull(batch: PackedBatch, columns: Tensor) -> Tensor | None:
    """Sum over each response's tokens of (policy - reference), without gradient, times policy: [P, K] float32.

    Its gradient is that of the divergence from the reference, by REINFORCE with the log-ratio of each token. None where
    the batch does not know the reference's tokens.
    """
    if batch.ref_token_logps is None:
        return None
    logps = columns[:, LOGP]
    return batch.sum_by_response((logps.detach() - batch.ref_token_logps) * logps)


def score_tokens(engine: Engine, feed: Feed, answers: PreferenceBatch) -> NDArray[np.float32] | None:
    """Log-probability of every response token of this replica's share of the prompts.

    Returns:
        [tokens] float32 in the batch's order, in nats, from the one process that speaks for the replica; None from the
        others.
    """
    feed, rows = feed.over(answers)
    found, batches = [], feed.stream(rows)
    while held := list(islice(batches, HELD_MICRO_BATCHES)):
        for batch, columns in zip(held, engine.score(held), strict=False):
            # What only keeps ranks in step has weight 0 and is nobody's.
            real = batch.weights[batch.response_ids // answers.num_responses] != 0
            found.append(columns[real, LOGP])
    return np.asarray(torch.cat(found).cpu().numpy(), dtype=np.float32) if feed.place.is_output else None


def score_pairs(engine: Engine, feed: Feed, pairs: Pairs, ld_alpha: float = 1.0) -> Logps | None:
    """Log-probabilities of this replica's share of the pairs, weighted as in `response_logps`.

    Returns:
        [n, K] float32 for the n prompts of this data-parallel rank, in order, from the one process that speaks for the
        replica; None from the others.
    """
    feed, rows = feed.over(pairs)
    scored, batches = [], feed.stream(rows)
    while held := list(islice(batches, HELD_MICRO_BATCHES)):
        # Off the last stage nothing comes back.
        scored += [response_logps(b, c, ld_alpha) for b, c in zip(held, engine.score(held), strict=False)]
    if not feed.place.is_output:
        return None
    count = len(shard(len(rows), feed.place.dp_rank, feed.place.topology.dp))
    return np.asarray(torch.cat(scored)[:count].cpu().numpy(), dtype=np.float32)


def token_statistics(batch: PackedBatch, columns: Tensor) -> MetricSums:
    """Entropy over all responses, accuracy and -log-probability over the chosen, mean logits over each, per token.

    A lone response counts as chosen.

    Args:
        batch: The micro-batch.
        columns: [R, 5] of the head.
    """
    values = columns.detach()
    count = batch.response_lengths.shape[1]
    is_chosen = (batch.response_ids % count == 0).to(values.dtype)
    weight = batch.weights[batch.response_ids // count]
    parts = {
        "entropy": (values[:, ENTROPY], weight),
        "mean_token_accuracy": (values[:, HIT], weight * is_chosen),
        "nll": (-values[:, LOGP], weight * is_chosen),
        "logits/chosen": (values[:, MEAN_LOGIT], weight * is_chosen),
        "logits/rejected": (values[:, MEAN_LOGIT], weight * (1 - is_chosen)),
    }
    sums = MetricSums()
    for name, (value, share) in parts.items():
        sums.add(name, (value * share).sum(), share.sum())
    return sums


def amounts(batches: Sequence[PackedBatch], place: Place) -> MetricSums:
    """What a step computed: rows of this rank, added up over the replicas."""
    sums = MetricSums()
    computed = batches[0].weights.new_tensor(sum(len(batch.tokens) for batch in batches))
    # The weights of all replicas sum to one, so that the mean is the total.
    sums.add("tokens_computed", computed, 1 / place.topology.dp)
    return sums
