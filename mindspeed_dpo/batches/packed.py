"""A micro-batch laid out as one row, as a model pass takes it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.batches.context_parallel_slice import RowPart
from mindspeed_dpo.device.ops import segment_sum


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch as one row of T tokens made of segments, ready for a model pass.

    A segment is a run of queries. Its keys are its prefix (the prompt, for a response that shares it) and then itself;
    attention is bottom-right causal. The last segment may be padding, which nothing reads.

    R counts the scored tokens of all responses, which are all of them unless `PreferenceBatch.scored` excludes some.

    Example: the prompt `5 6` with chosen response `7 8` and rejected response `9`, which share the prompt.

        PackedBatch(
            tokens=[5, 6, 7, 8, 9], positions=[0, 1, 2, 3, 2],
            query_lengths=(2, 2, 1), key_lengths=(2, 4, 3), key_rows=[0, 1, 0, 1, 2, 3, 0, 1, 4],
            score_rows=[1, 2, 1], labels=[7, 8, 9], response_ids=[0, 0, 1], last_rows=[3, 4],
            response_lengths=[[2, 1]], ref_logps=[[-3.5, -2.0]], weights=[1.0], pair_ids=[0],
            segment_responses=(range(0, 2), range(0, 1), range(1, 2)),
        )

    Attributes:
        tokens: [T] int64.
        positions: [T] int64, counted from the start of the prompt.
        query_lengths: Queries of each segment, on the host, summing to T.
        key_lengths: Keys of each segment, on the host, summing to S.
        key_rows: [S] int64 row of each key, or None when the keys are the queries.
        score_rows: [R] int64 row whose hidden state predicts each scored token.
        labels: [R] int64 scored tokens.
        response_ids: [R] int64 in [0, P * K): the response each label belongs to.
        last_rows: [P * K] int64 row of the last token of each response; of one that does not exist any row.
        response_lengths: [P, K] int64, scored tokens of each response; 0 for one that its prompt does not have.
        ref_logps: [P, K] float32 or float64, zero where there is no reference.
        weights: [P] float32, 1 for a real pair and 0 for one that only keeps ranks in step.
        pair_ids: [P] int64 place of each pair among those of the full step.
        margins: [P] float32 or None, see `PreferenceBatch`.
        factors: [P] float32 or None, see `PreferenceBatch`.
        logp_weights: [P, K] float32 or None, see `PreferenceBatch`.
        ref_token_logps: [R] float32 or None, see `PreferenceBatch`.
        rollout_token_logps: [R] float32 or None, see `PreferenceBatch`.
        segment_responses: Responses [0, P * K) that each segment belongs to, on the host: a shared prompt to all of its
            pair, padding to none.
        part: The rows that this context-parallel rank computes; None where it computes all of them.
        source: What this was copied from; None where it was not. Copies to a device run behind the host and read the
            memory of their source, which must not be given to others before they have.
    """

    tokens: Tensor
    positions: Tensor
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_rows: Tensor | None
    score_rows: Tensor
    labels: Tensor
    response_ids: Tensor
    last_rows: Tensor
    response_lengths: Tensor
    ref_logps: Tensor
    weights: Tensor
    pair_ids: Tensor
    margins: Tensor | None = None
    factors: Tensor | None = None
    logp_weights: Tensor | None = None
    ref_token_logps: Tensor | None = None
    rollout_token_logps: Tensor | None = None
    segment_responses: tuple[range, ...] = ()
    part: RowPart | None = None
    source: PackedBatch | None = field(default=None, repr=False, compare=False)

    def for_context_rank(self, rank: int, size: int) -> PackedBatch:
        """Return the row as one of `size` context-parallel ranks has it, which computes a part; on the host."""
        if size == 1:
            return self
        return replace(self, part=RowPart.of(len(self.tokens), self.score_rows, self.labels, rank, size))

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch with its tensors on a device."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {"source": self}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if torch.is_tensor(value):
                moved[spec.name] = value.to(device, non_blocking=True)
            elif isinstance(value, RowPart):
                moved[spec.name] = value.to(device)
        return replace(self, **moved)

    def sum_by_response(self, values: Tensor) -> Tensor:
        """Sum values [R] over the tokens of each response; result [P, K] in the number format of `segment_sum`."""
        sums = segment_sum(values, self.response_ids, self.response_lengths.flatten())
        return sums.view(self.response_lengths.shape)
