"""Log-probabilities of responses from the head's columns, and the statistics of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.models.head import ENTROPY, HIT, LOG_COLLISION, LOGP, MEAN_LOGIT
from mindspeed_dpo.observability.metrics import MetricSums
from mindspeed_dpo.parallel.topology import Place
from mindspeed_dpo.workers.batching.batch_builder import Feed
from mindspeed_dpo.workers.interfaces import Pairs, Rows, Share

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


def score_tokens(engine: Engine, feed: Feed, answers: PreferenceBatch) -> Share | None:
    """Log-probability of every response token of this replica's share of the prompts.

    Returns:
        Values [n] float32 of n tokens, in nats, with their places among the batch's `response_tokens`, from the one
        process that speaks for the replica; None from the others.
    """
    feed, rows = feed.over(answers)
    counts = answers.response_lengths.sum(1)
    starts = (counts.cumsum(0) - counts).to(feed.device)
    places, values = [], []
    for batch, columns in _scored(engine, feed, rows):
        pairs = batch.response_ids // answers.num_responses
        of_pairs = batch.response_lengths.sum(1)
        within = torch.arange(len(pairs), device=pairs.device) - (of_pairs.cumsum(0) - of_pairs)[pairs]
        real = batch.weights[pairs] != 0
        places.append((starts[batch.pair_ids[pairs]] + within)[real])
        values.append(columns[real, LOGP])
    return _share(places, values) if feed.place.is_output else None


def score_pairs(engine: Engine, feed: Feed, pairs: Pairs, ld_alpha: float = 1.0) -> Share | None:
    """Log-probabilities of this replica's share of the pairs, weighted as in `response_logps`.

    Returns:
        Values [n, K] float32 of n prompts, with their places among the pairs, from the one process that speaks for the
        replica; None from the others.
    """
    feed, rows = feed.over(pairs)
    places, values = [], []
    for batch, columns in _scored(engine, feed, rows):
        real = batch.weights != 0
        places.append(batch.pair_ids[real])
        values.append(response_logps(batch, columns, ld_alpha)[real])
    return _share(places, values) if feed.place.is_output else None


def _scored(engine: Engine, feed: Feed, rows: Rows) -> Iterator[tuple[PackedBatch, Tensor]]:
    """This replica's micro-batches with the head's columns of each; nothing off the last stage."""
    batches = feed.stream(rows)
    while held := list(islice(batches, HELD_MICRO_BATCHES)):
        yield from zip(held, engine.score(held), strict=False)


def _share(places: Sequence[Tensor], values: Sequence[Tensor]) -> Share:
    """What is said of some places. What only keeps ranks in step, and is nobody's, has been left out."""
    found = torch.cat(list(values)).cpu().numpy()
    return Share(torch.cat(list(places)).cpu().numpy(), np.asarray(found, dtype=np.float32))


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


def amounts(batches: Sequence[PackedBatch], place: Place, budget: int | None) -> MetricSums:
    """What a step computed: rows and micro-batches of this rank, added up over the replicas.

    Args:
        batches: Of this rank.
        place: Where it stands.
        budget: Rows that a micro-batch was to hold at most; None where it was filled by pairs.
    """
    sums, made = MetricSums(), batches[0].weights.new_tensor
    rows, count = sum(len(batch.tokens) for batch in batches), len(batches)
    # The weights of all replicas sum to one, so that the mean is the total.
    sums.add("tokens_computed", made(rows), 1 / place.topology.dp)
    sums.add("micro_batches", made(count), 1 / place.topology.dp)
    if budget is not None:
        sums.add("micro_batch_fill", made(rows / budget), count)
    return sums
