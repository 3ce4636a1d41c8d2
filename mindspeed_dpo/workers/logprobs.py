"""Log-probabilities of responses from the columns of the vocabulary head, and metrics of the work done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from mindspeed_dpo.algorithms.ld_dpo import excess_weights
from mindspeed_dpo.batches import PackedBatch, PreferenceBatch
from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.device.ops.sums import sum_dtype
from mindspeed_dpo.observability.metric_sums import MetricSums
from mindspeed_dpo.parallel.topology import ParallelRank
from mindspeed_dpo.workers.batching.batch_builder import BatchBuilder
from mindspeed_dpo.workers.role_values import Pairs, ReplicaValues, Rows

# Micro-batches on the device at once while scoring: enough to fill a pipeline.
HELD_MICRO_BATCHES = 16


class Engine(Protocol):
    """An engine that runs a model forward."""

    def score(self, batches: Sequence[PackedBatch]) -> list[Tensor]:
        """Return the head's columns [R, 1 or 5] float32, in nats, of each micro-batch; [] on all but the last stage."""


def response_logps(batch: PackedBatch, columns: Tensor, ld_alpha: float = 1.0) -> Tensor:
    """Sum the log-probability of each response: [P, K] in the dtype of `segment_sum`, in nats.

    Args:
        batch: The micro-batch, with P pairs.
        columns: [R, 1 or 5] float32 of the head.
        ld_alpha: Weight of the tokens by which a response is longer than the other of its pair, equation 9 of Liu et
            al. 2024 (LD-DPO, arXiv:2409.06411), for policy and reference alike; 1 is the plain sum.
    """
    values = columns[:, LOGP]
    return batch.sum_by_response(values if ld_alpha == 1 else values * excess_weights(batch, ld_alpha))


def kl_surrogate(batch: PackedBatch, columns: Tensor) -> Tensor | None:
    """Sum (policy - reference), without gradient, times policy over each response's tokens.

    Returns [P, K] float32 or float64, in nats^2.

    Its gradient is that of the KL divergence from the reference, by REINFORCE with the log-ratio of each token.

    Args:
        batch: The micro-batch.
        columns: [R, 1 or 5] float32 of the head.

    Returns:
        None where the batch lacks the reference's log-probabilities per token.
    """
    if batch.ref_token_logps is None:
        return None
    logps = columns[:, LOGP]
    return batch.sum_by_response((logps.detach() - batch.ref_token_logps) * logps)


def score_tokens(engine: Engine, batch_builder: BatchBuilder, responses: PreferenceBatch) -> ReplicaValues | None:
    """Compute the log-probability of every response token of this replica's share of the prompts.

    Returns:
        Values [n] float32 of n tokens, in nats, with their positions among the batch's `response_tokens`, from the
        output rank of the replica; None from the others.
    """
    batch_builder, rows = batch_builder.over(responses)
    counts = responses.response_lengths.sum(1)
    starts = (counts.cumsum(0) - counts).to(batch_builder.device)
    places, values = [], []
    for batch, columns in _scored(engine, batch_builder, rows):
        pairs = batch.response_ids // responses.num_responses
        of_pairs = batch.response_lengths.sum(1)
        within = torch.arange(len(pairs), device=pairs.device) - (of_pairs.cumsum(0) - of_pairs)[pairs]
        real = batch.weights[pairs] != 0
        places.append((starts[batch.pair_ids[pairs]] + within)[real])
        values.append(columns[real, LOGP])
    return share(places, values) if batch_builder.place.is_output else None


def score_pairs(
    engine: Engine, batch_builder: BatchBuilder, pairs: Pairs, ld_alpha: float = 1.0
) -> ReplicaValues | None:
    """Compute the log-probabilities of this replica's share of the pairs, weighted as in `response_logps`.

    Returns:
        Values [n, K] float32 or float64 of n prompts, in nats, with their positions among the pairs, from the output
        rank of the replica; None from the others.
    """
    batch_builder, rows = batch_builder.over(pairs)
    places, values = [], []
    for batch, columns in _scored(engine, batch_builder, rows):
        real = batch.weights != 0
        places.append(batch.pair_ids[real])
        values.append(response_logps(batch, columns, ld_alpha)[real])
    return share(places, values) if batch_builder.place.is_output else None


def _scored(engine: Engine, batch_builder: BatchBuilder, rows: Rows) -> Iterator[tuple[PackedBatch, Tensor]]:
    """Iterate over this replica's micro-batches with the head's columns of each; empty on all but the last stage."""
    batches = batch_builder.stream(rows)
    while held := list(islice(batches, HELD_MICRO_BATCHES)):
        yield from zip(held, engine.score(held), strict=False)


def share(places: Sequence[Tensor], values: Sequence[Tensor]) -> ReplicaValues:
    """Return the values of all micro-batches of a replica.

    Args:
        places: Of each micro-batch [n] int64, places of its values in the request, without padding.
        values: Of each micro-batch [n, ...] of any floating dtype, in nats, or rewards without unit.
    """
    return ReplicaValues(torch.cat(list(places)).cpu().numpy(), torch.cat(list(values)).cpu().numpy())


def workload_metrics(batches: Sequence[PackedBatch], place: ParallelRank, budget: int | None) -> MetricSums:
    """Sum what a step computed: rows and micro-batches of this rank, totalled over the replicas.

    Args:
        batches: Micro-batches of this rank.
        place: Ranks of this process.
        budget: Most rows of a micro-batch (`micro_batch_tokens`); None where its pairs are counted instead.
    """
    sums, device = MetricSums(), batches[0].weights.device
    made = partial(torch.tensor, dtype=sum_dtype(device), device=device)
    rows, count = sum(len(batch.tokens) for batch in batches), len(batches)
    # The weights of all replicas sum to one, so that the mean is the total.
    sums.add("tokens_computed", made(rows), 1 / place.topology.dp)
    sums.add("micro_batches", made(count), 1 / place.topology.dp)
    if budget is not None:
        sums.add("micro_batch_fill", made(rows / budget), count)
    return sums
