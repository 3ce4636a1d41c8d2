"""Packs ragged pairs into one row of segments, and aligns each label with the position that predicts it.

No other module depends on the two layouts.

Shared: the prompt is one segment, each response a segment whose prefix is that prompt, so a prompt is computed once.
Repeated: each response is one segment that begins with its own copy of the prompt. Both give equal log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mindspeed_dpo.batches import PackedBatch, PreferenceBatch

Masks = tuple[Tensor | None, ...]
"""Which tokens of each response to a prompt are scored, each [length] bool; None for all."""


def pack(
    batch: PreferenceBatch,
    *,
    share_prompt: bool = True,
    multiple_of: int = 1,
    weights: Tensor | None = None,
    pair_ids: Tensor | None = None,
) -> PackedBatch:
    """Pack a batch into one row.

    Args:
        batch: P prompts with K responses each.
        share_prompt: Compute each prompt once for all of its responses.
        multiple_of: The row is padded to a multiple of this (sequence parallelism splits it evenly).
        weights: [P] float32, see `PackedBatch`; all 1 when absent.
        pair_ids: [P] int64, see `PackedBatch`; in order when absent.

    Returns:
        The packed row, on the host.
    """
    row = _Row()
    every: list[Masks] = [(None,) * batch.num_responses] * batch.num_prompts
    scored: Sequence[Masks] = batch.scored_by_response() or every
    for prompt, responses, masks in zip(batch.prompts(), batch.responses(), scored, strict=True):
        if share_prompt:
            row.add_shared(prompt, responses, masks)
        else:
            for response, mask in zip(responses, masks, strict=True):
                row.add_repeated(prompt, response, mask)
    row.pad(multiple_of)
    packed = row.finish(batch, weights, has_prefixes=share_prompt)
    return packed if pair_ids is None else replace(packed, pair_ids=pair_ids)


def packed_sizes(
    lengths: NDArray[np.integer], *, share_prompt: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compute the packed size of each prompt with its responses from lengths alone.

    Args:
        lengths: [P, 1 + K] integer lengths in tokens of each prompt and of its responses.
        share_prompt: Whether responses share their prompt, as for `pack`.

    Returns:
        Rows [P] int64, without padding, and the number of keys [P] int64 that all their queries attend to in total.
    """
    prompts, responses = lengths[:, 0].astype(np.int64), lengths[:, 1:].astype(np.int64)
    before, segments = responses * prompts[:, None], responses
    if not share_prompt:
        before, segments = np.zeros_like(responses), responses + prompts[:, None] * (responses > 0)
    shared = prompts * share_prompt
    rows = shared + segments.sum(1)
    visible_keys = _triangle(shared) + (before + _triangle(segments)).sum(1)
    return rows, visible_keys


def _triangle(count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of keys visible to `count` causal queries in their own segment: 1 + 2 + … + count."""
    return count * (count + 1) // 2


@dataclass
class _Row:
    """A row under construction; every list is concatenated at the end."""

    length: int = 0
    responses: int = 0
    tokens: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    query_lengths: list[int] = field(default_factory=list)
    segment_responses: list[range] = field(default_factory=list)
    key_lengths: list[int] = field(default_factory=list)
    key_rows: list[Tensor] = field(default_factory=list)
    score_rows: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    response_ids: list[Tensor] = field(default_factory=list)
    last_rows: list[int] = field(default_factory=list)

    def add_shared(self, prompt: Tensor, responses: tuple[Tensor, ...], masks: Masks) -> None:
        start = self.length
        prompt_rows = torch.arange(start, start + len(prompt))
        present = sum(len(response) > 0 for response in responses)
        self._segment(prompt, range(self.responses, self.responses + present), first_position=0)
        for response, mask in zip(responses, masks, strict=True):
            if not len(response):
                self._no_response(response)
                continue
            first = self.length
            self._segment(response, self._next_response(), first_position=len(prompt), prefix=prompt_rows)
            # The first response token is predicted by the last prompt row, the others by the row before them.
            self._score(response, torch.cat((prompt_rows[-1:], torch.arange(first, first + len(response) - 1))), mask)

    def add_repeated(self, prompt: Tensor, response: Tensor, mask: Tensor | None) -> None:
        if not len(response):
            self._no_response(response)
            return
        first = self.length + len(prompt)
        self._segment(torch.cat((prompt, response)), self._next_response(), first_position=0)
        self._score(response, torch.arange(first - 1, first + len(response) - 1), mask)

    def pad(self, multiple_of: int) -> None:
        missing = -self.length % multiple_of
        if missing:
            self._segment(torch.zeros(missing, dtype=torch.int32), range(0), first_position=0)

    def _no_response(self, empty: Tensor) -> None:
        """Count a response that a prompt with fewer than others does not have; its last row is that of another."""
        self._score(empty, torch.arange(0), None)

    def _next_response(self) -> range:
        return range(self.responses, self.responses + 1)

    def _segment(self, tokens: Tensor, belongs_to: range, first_position: int, prefix: Tensor | None = None) -> None:
        own = torch.arange(self.length, self.length + len(tokens))
        keys = own if prefix is None else torch.cat((prefix, own))
        self.tokens.append(tokens)
        self.positions.append(torch.arange(first_position, first_position + len(tokens)))
        self.query_lengths.append(len(tokens))
        self.segment_responses.append(belongs_to)
        self.key_lengths.append(len(keys))
        self.key_rows.append(keys)
        self.length += len(tokens)

    def _score(self, response: Tensor, rows: Tensor, mask: Tensor | None) -> None:
        """Record the rows that predict the response of the most recent segment, of which a mask may leave out some."""
        if mask is not None:
            rows, response = rows[mask], response[mask]
        self.score_rows.append(rows)
        self.labels.append(response)
        self.response_ids.append(torch.full((len(response),), self.responses))
        self.last_rows.append(self.length - 1)
        self.responses += 1

    def finish(self, batch: PreferenceBatch, weights: Tensor | None, *, has_prefixes: bool) -> PackedBatch:
        ref_logps = batch.ref_logps
        return PackedBatch(
            tokens=torch.cat(self.tokens).long(),
            positions=torch.cat(self.positions),
            query_lengths=tuple(self.query_lengths),
            key_lengths=tuple(self.key_lengths),
            key_rows=torch.cat(self.key_rows) if has_prefixes else None,
            score_rows=torch.cat(self.score_rows),
            labels=torch.cat(self.labels).long(),
            response_ids=torch.cat(self.response_ids),
            last_rows=torch.tensor(self.last_rows),
            response_lengths=torch.tensor(list(map(len, self.labels))).view(batch.response_lengths.shape),
            ref_logps=torch.zeros(batch.response_lengths.shape) if ref_logps is None else ref_logps,
            weights=torch.ones(batch.num_prompts) if weights is None else weights,
            pair_ids=torch.arange(batch.num_prompts),
            margins=batch.margins,
            factors=batch.factors,
            logp_weights=batch.logp_weights,
            ref_token_logps=_scored_only(batch.ref_token_logps, batch.scored),
            rollout_token_logps=_scored_only(batch.rollout_token_logps, batch.scored),
            segment_responses=tuple(self.segment_responses),
        )


def _scored_only(values: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return the values [response tokens], float32 in nats, of scored tokens."""
    return values if values is None or mask is None else values[mask]
