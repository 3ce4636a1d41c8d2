"""The few typed batches that travel between rooms. Tokens are flat, the pair is an axis.

Padding belongs to a kernel, not to the data, so nothing here is padded. Every split (data-parallel
rank, micro-batch, shuffle) selects prompts, hence the responses of one prompt cannot part.
Letters: P prompts, K responses of each (K = 2 for pairs: 0 is chosen, 1 is rejected).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.row_part import RowPart


@dataclass(frozen=True)
class PreferenceBatch:
    """P prompts with K responses each, as ragged integer tokens on the host.

    Attributes:
        prompt_tokens: [sum of prompt lengths] int32.
        prompt_lengths: [P] int32.
        response_tokens: [sum of response lengths] int32; response (p, k) follows (p, k - 1).
        response_lengths: [P, K] int32, each at least 1.
        ref_logps: [P, K] float32 or None: reference log-probabilities summed over response tokens, in nats.
        margins: [P] float32 or None: by how much chosen should be ahead, in units of beta times nats.
        factors: [P] float32 or None: factor on each pair's loss.
        logp_weights: [P, K] float32 or None: factor of each response's log-probability in the loss, beside the pair.
        ref_token_logps: [sum of response lengths] float32 or None: of the reference, of each token, in nats.
    """

    prompt_tokens: Tensor
    prompt_lengths: Tensor
    response_tokens: Tensor
    response_lengths: Tensor
    ref_logps: Tensor | None = None
    margins: Tensor | None = None
    factors: Tensor | None = None
    logp_weights: Tensor | None = None
    ref_token_logps: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the lengths describe the tokens.

        Raises:
            ValueError: Shapes disagree; the message names the tensor.
        """
        if self.response_lengths.dim() != 2 or len(self.response_lengths) != len(self.prompt_lengths):
            raise ValueError(
                f"response_lengths must be [P, K] with P = {len(self.prompt_lengths)}, "
                f"got {list(self.response_lengths.shape)}"
            )
        for name in ("prompt", "response"):
            tokens, lengths = getattr(self, f"{name}_tokens"), getattr(self, f"{name}_lengths")
            if int(lengths.sum()) != len(tokens):
                raise ValueError(f"{name}_lengths sum to {int(lengths.sum())}, there are {len(tokens)} {name}_tokens")
        for name in ("ref_logps", "logp_weights"):
            value = getattr(self, name)
            if value is not None and value.shape != self.response_lengths.shape:
                raise ValueError(f"{name} must be {list(self.response_lengths.shape)}, got {list(value.shape)}")
        if self.ref_token_logps is not None and self.ref_token_logps.shape != self.response_tokens.shape:
            raise ValueError(
                f"ref_token_logps must be [{len(self.response_tokens)}], one per response token, got "
                f"{list(self.ref_token_logps.shape)}"
            )
        for name in ("margins", "factors"):
            value = getattr(self, name)
            if value is not None and value.shape != self.prompt_lengths.shape:
                raise ValueError(f"{name} must be [{self.num_prompts}], one per pair, got {list(value.shape)}")

    @classmethod
    def from_lists(
        cls, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[Sequence[int]]]
    ) -> PreferenceBatch:
        """Build a batch from token lists: `prompts[p]` and `responses[p][k]`."""
        flat_prompts = [token for prompt in prompts for token in prompt]
        flat_responses = [token for row in responses for response in row for token in response]
        return cls(
            prompt_tokens=torch.tensor(flat_prompts, dtype=torch.int32),
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
            response_tokens=torch.tensor(flat_responses, dtype=torch.int32),
            response_lengths=torch.tensor([[len(r) for r in row] for row in responses], dtype=torch.int32),
        )

    @property
    def num_prompts(self) -> int:
        """P."""
        return len(self.prompt_lengths)

    @property
    def num_responses(self) -> int:
        """K."""
        return self.response_lengths.shape[1]

    def lengths(self) -> Tensor:
        """[P, 1 + K] int32 tokens of each prompt and of its responses."""
        return torch.cat([self.prompt_lengths[:, None], self.response_lengths], 1)

    def prompts(self) -> tuple[Tensor, ...]:
        """The P prompts, each [length] int32."""
        return torch.split(self.prompt_tokens, self.prompt_lengths.tolist())

    def responses(self) -> list[tuple[Tensor, ...]]:
        """The K responses of each of the P prompts, each [length] int32."""
        return self._by_response(self.response_tokens)

    def _by_response(self, values: Tensor) -> list[tuple[Tensor, ...]]:
        """Values of all response tokens as those of each response."""
        flat = torch.split(values, self.response_lengths.flatten().tolist())
        k = self.num_responses
        return [flat[p * k : (p + 1) * k] for p in range(self.num_prompts)]

    def select(self, prompts: Sequence[int]) -> PreferenceBatch:
        """The sub-batch of the given prompt positions, in the given order."""
        all_prompts, all_responses = self.prompts(), self.responses()
        index = torch.as_tensor(prompts, dtype=torch.long)
        tokens = None if self.ref_token_logps is None else self._by_response(self.ref_token_logps)
        return PreferenceBatch(
            prompt_tokens=torch.cat([all_prompts[p] for p in prompts]),
            prompt_lengths=self.prompt_lengths[index],
            response_tokens=torch.cat([r for p in prompts for r in all_responses[p]]),
            response_lengths=self.response_lengths[index],
            ref_logps=None if self.ref_logps is None else self.ref_logps[index],
            margins=None if self.margins is None else self.margins[index],
            factors=None if self.factors is None else self.factors[index],
            logp_weights=None if self.logp_weights is None else self.logp_weights[index],
            ref_token_logps=None if tokens is None else torch.cat([r for p in prompts for r in tokens[p]]),
        )

    @classmethod
    def concat(cls, parts: Sequence[PreferenceBatch]) -> PreferenceBatch:
        """Several batches of the same K as one, in their order; what only some have is left out."""
        return cls(
            prompt_tokens=torch.cat([part.prompt_tokens for part in parts]),
            prompt_lengths=torch.cat([part.prompt_lengths for part in parts]),
            response_tokens=torch.cat([part.response_tokens for part in parts]),
            response_lengths=torch.cat([part.response_lengths for part in parts]),
            ref_logps=_joined([part.ref_logps for part in parts]),
            margins=_joined([part.margins for part in parts]),
            factors=_joined([part.factors for part in parts]),
            logp_weights=_joined([part.logp_weights for part in parts]),
            ref_token_logps=_joined([part.ref_token_logps for part in parts]),
        )

    def choose(self, prompts: Tensor, responses: Tensor) -> PreferenceBatch:
        """Some responses of some prompts, such as pairs of the K that were sampled.

        Args:
            prompts: [N] int64 positions of prompts, which may repeat.
            responses: [N, k] int64 which of the K responses, in the wanted order.

        Returns:
            N prompts with k responses each; what belongs to whole pairs or to tokens is left out.
        """
        all_prompts, all_responses = self.prompts(), self.responses()
        chosen = [all_responses[p][k] for p, row in zip(prompts.tolist(), responses.tolist(), strict=True) for k in row]
        return PreferenceBatch(
            prompt_tokens=torch.cat([all_prompts[p] for p in prompts.tolist()]),
            prompt_lengths=self.prompt_lengths[prompts],
            response_tokens=torch.cat(chosen),
            response_lengths=self.response_lengths[prompts[:, None], responses],
            ref_logps=None if self.ref_logps is None else self.ref_logps[prompts[:, None], responses],
            logp_weights=None if self.logp_weights is None else self.logp_weights[prompts[:, None], responses],
        )

    def with_ref_logps(self, ref_logps: Tensor) -> PreferenceBatch:
        """The same batch carrying reference log-probabilities [P, K] float32, in nats."""
        return replace(self, ref_logps=ref_logps)


@dataclass(frozen=True)
class RolloutBatch:
    """K sampled responses to each of P prompts, on the host.

    Attributes:
        answers: The P prompts and their K responses; a response keeps the stop token it ended with.
        rows: [P] int64 dataset row of each prompt; columns for the reward are looked up by it.
        ended: [P, K] bool, whether a response ended by itself with a stop token.
        logps: [P, K] float32 log-probability of each response under what sampled it, at temperature 1, in nats; None
            where it was not asked for.
        version: Of the policy that sampled: optimizer iterations it has learned from.
    """

    answers: PreferenceBatch
    rows: Tensor
    ended: Tensor
    logps: Tensor | None = None
    version: int = 0

    def __post_init__(self) -> None:
        """Check that the shapes agree.

        Raises:
            ValueError: They do not; the message names the tensor.
        """
        shape = self.answers.response_lengths.shape
        if len(self.rows) != shape[0]:
            raise ValueError(f"rows must be [{shape[0]}], one per prompt, got {list(self.rows.shape)}")
        for name in ("ended", "logps"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, got {list(value.shape)}")

    @property
    def num_prompts(self) -> int:
        """P."""
        return self.answers.num_prompts

    @property
    def num_responses(self) -> int:
        """K."""
        return self.answers.num_responses

    def select(self, prompts: Sequence[int]) -> RolloutBatch:
        """The rollouts of the given prompt positions, in the given order."""
        index = torch.as_tensor(prompts, dtype=torch.long)
        return RolloutBatch(
            self.answers.select(prompts),
            self.rows[index],
            self.ended[index],
            None if self.logps is None else self.logps[index],
            self.version,
        )

    @classmethod
    def concat(cls, parts: Sequence[RolloutBatch]) -> RolloutBatch:
        """The rollouts of several replicas as one batch, in their order.

        Raises:
            ValueError: Different versions of the policy sampled them.
        """
        versions = {part.version for part in parts}
        if len(versions) != 1:
            raise ValueError(f"rollouts of policy versions {sorted(versions)} cannot be one batch")
        return cls(
            PreferenceBatch.concat([part.answers for part in parts]),
            torch.cat([part.rows for part in parts]),
            torch.cat([part.ended for part in parts]),
            _joined([part.logps for part in parts]),
            parts[0].version,
        )


def side_by_side(first: RolloutBatch, second: RolloutBatch) -> RolloutBatch:
    """Responses to the same prompts as one batch: those of the first, then those of the second.

    Raises:
        ValueError: The prompts differ.
    """
    one, two = first.answers, second.answers
    if not torch.equal(one.prompt_tokens, two.prompt_tokens) or not torch.equal(first.rows, second.rows):
        raise ValueError("only responses to the same prompts can stand side by side")
    responses = [
        response for rows in zip(one.responses(), two.responses(), strict=True) for row in rows for response in row
    ]
    logps = None if first.logps is None or second.logps is None else torch.cat([first.logps, second.logps], 1)
    answers = PreferenceBatch(
        prompt_tokens=one.prompt_tokens,
        prompt_lengths=one.prompt_lengths,
        response_tokens=torch.cat([one.response_tokens[:0], *responses]),
        response_lengths=torch.cat([one.response_lengths, two.response_lengths], 1),
    )
    return RolloutBatch(answers, first.rows, torch.cat([first.ended, second.ended], 1), logps, first.version)


@dataclass(frozen=True)
class PackedBatch:
    """A micro-batch as one row of T tokens made of segments, ready for a model pass.

    A segment is a run of queries. Its keys are its prefix (the prompt, for a response that shares it) and then itself;
    attention is bottom-right causal. The last segment may be padding, which nothing reads.

    Attributes:
        tokens: [T] int64.
        positions: [T] int64, counted from the start of the prompt.
        query_lengths: Queries of each segment, on the host, summing to T.
        key_lengths: Keys of each segment, on the host, summing to S.
        key_rows: [S] int64 row of each key, or None when the keys are the queries.
        score_rows: [R] int64 row whose hidden state predicts each response token.
        labels: [R] int64 response tokens.
        response_ids: [R] int64 in [0, P * K): the response each label belongs to.
        last_rows: [P * K] int64 row of the last token of each response.
        response_lengths: [P, K] int64.
        ref_logps: [P, K] float32, zero where there is no reference.
        weights: [P] float32, 1 for a real pair and 0 for one that only keeps ranks in step.
        pair_ids: [P] int64 place of each pair among those of the whole step.
        margins: [P] float32 or None, see `PreferenceBatch`.
        factors: [P] float32 or None, see `PreferenceBatch`.
        logp_weights: [P, K] float32 or None, see `PreferenceBatch`.
        ref_token_logps: [R] float32 or None, see `PreferenceBatch`.
        part: The rows that this context-parallel rank computes; None where it computes all of them.
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
    part: RowPart | None = None

    def divided(self, rank: int, size: int) -> PackedBatch:
        """The same row as one of `size` context-parallel ranks has it, which computes a part; on the host."""
        if size == 1:
            return self
        return replace(self, part=RowPart.of(len(self.tokens), self.score_rows, self.labels, rank, size))

    def to(self, device: torch.device) -> PackedBatch:
        """The same batch with its tensors on a device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if torch.is_tensor(value):
                moved[field.name] = value.to(device, non_blocking=True)
            elif isinstance(value, RowPart):
                moved[field.name] = value.to(device)
        return replace(self, **moved)

    def excess_weights(self, alpha: float) -> Tensor:
        """Weight [R] float32 of each label: alpha past the length of the shorter response of its pair, else 1."""
        lengths = self.response_lengths.flatten()
        places = (
            torch.arange(len(self.labels), device=self.labels.device) - (lengths.cumsum(0) - lengths)[self.response_ids]
        )
        shorter = self.response_lengths.amin(1, keepdim=True).expand_as(self.response_lengths).flatten()
        return torch.where(places < shorter[self.response_ids], 1.0, alpha)

    def sum_by_response(self, values: Tensor) -> Tensor:
        """Sum values [R] over the tokens of each response; result [P, K] in values' dtype."""
        flat = values.new_zeros(self.response_lengths.numel())
        return flat.index_add(0, self.response_ids, values).view(self.response_lengths.shape)


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts as one tensor, or None where one of them is missing."""
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None
