"""Prompts with K responses each, as read from a dataset or sampled by a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PreferenceBatch:
    """P prompts with K responses each, as ragged token ids on the host.

    Attributes:
        prompt_tokens: [sum of prompt lengths] int32 token ids.
        prompt_lengths: [P] int32, in tokens.
        response_tokens: [sum of response lengths] int32 token ids; response (p, k) follows (p, k - 1).
        response_lengths: [P, K] int32, in tokens; 0 for the last ones of a prompt with fewer responses than K.
        ref_logps: [P, K] float32, float64 or None: reference log-probabilities summed over response tokens, in nats.
        margins: [P] float32 or None: by how much the chosen response is better, in units of the data or the reward;
            the objective multiplies it by `margin_scale`.
        factors: [P] float32 or None: weight of each pair's loss.
        logp_weights: [P, K] float32 or None: weight of each response's log-probability as a loss term of its own.
        ref_token_logps: [sum of response lengths] float32 or None: reference log-probability of each token, in nats.
        rollout_token_logps: [sum of response lengths] float32 or None: log-probability of each token as its sampler
            computed it, in nats; NaN where another model than the policy sampled it.
        scored: [sum of response lengths] bool or None: which response tokens the assistant wrote, so that their
            log-probabilities count; None for all. Tokens of users and results of tools only precede others.

    Example:
        The prompt `5 6` with chosen response `7 8` and rejected response `9` is
        `PreferenceBatch.from_lists([[5, 6]], [[[7, 8], [9]]])`: `prompt_lengths=[2]`, `response_tokens=[7, 8, 9]`,
        `response_lengths=[[2, 1]]`.
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
    rollout_token_logps: Tensor | None = None
    scored: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that lengths, tokens and optional tensors agree.

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
        for name in ("ref_token_logps", "rollout_token_logps", "scored"):
            value = getattr(self, name)
            if value is not None and value.shape != self.response_tokens.shape:
                raise ValueError(
                    f"{name} must be [{len(self.response_tokens)}], one per response token, got {list(value.shape)}"
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

    def token_range(self) -> tuple[int, int]:
        """Return the lowest and the highest token id of prompts and responses; computed on the host."""
        lowest, highest = zip(*(tokens.aminmax() for tokens in (self.prompt_tokens, self.response_tokens)), strict=True)
        return int(min(lowest)), int(max(highest))

    @property
    def num_prompts(self) -> int:
        """Number of prompts P."""
        return len(self.prompt_lengths)

    @property
    def num_responses(self) -> int:
        """Number of responses K to each prompt."""
        return self.response_lengths.shape[1]

    def lengths(self) -> Tensor:
        """Return the lengths of each prompt and of its responses in tokens, [P, 1 + K] int32."""
        return torch.cat([self.prompt_lengths[:, None], self.response_lengths], 1)

    def prompts(self) -> tuple[Tensor, ...]:
        """Return the P prompts, each [length] int32 token ids."""
        return torch.split(self.prompt_tokens, self.prompt_lengths.tolist())

    def responses(self) -> list[tuple[Tensor, ...]]:
        """Return the K responses to each of the P prompts, each [length] int32 token ids."""
        return self._by_response(self.response_tokens)

    def scored_by_response(self) -> list[tuple[Tensor, ...]] | None:
        """Return which tokens of the K responses to each prompt are scored, each [length] bool; None for all."""
        return None if self.scored is None else self._by_response(self.scored)

    def _by_response(self, values: Tensor) -> list[tuple[Tensor, ...]]:
        """Split values of all response tokens by response."""
        flat = torch.split(values, self.response_lengths.flatten().tolist())
        k = self.num_responses
        return [flat[p * k : (p + 1) * k] for p in range(self.num_prompts)]

    def select(self, prompts: Sequence[int]) -> PreferenceBatch:
        """Select the given prompt positions, in the given order."""
        all_prompts = self.prompts()
        index = torch.as_tensor(prompts, dtype=torch.long)
        all_ranges = self._by_response(torch.arange(len(self.response_tokens)))
        places = torch.cat([self.response_tokens[:0].long(), *(r for p in prompts for r in all_ranges[p])])
        return PreferenceBatch(
            prompt_tokens=torch.cat([self.prompt_tokens[:0], *(all_prompts[p] for p in prompts)]),
            prompt_lengths=self.prompt_lengths[index],
            response_tokens=self.response_tokens[places],
            response_lengths=self.response_lengths[index],
            ref_logps=None if self.ref_logps is None else self.ref_logps[index],
            margins=None if self.margins is None else self.margins[index],
            factors=None if self.factors is None else self.factors[index],
            logp_weights=None if self.logp_weights is None else self.logp_weights[index],
            ref_token_logps=None if self.ref_token_logps is None else self.ref_token_logps[places],
            rollout_token_logps=None if self.rollout_token_logps is None else self.rollout_token_logps[places],
            scored=None if self.scored is None else self.scored[places],
        )

    @classmethod
    def concat(cls, parts: Sequence[PreferenceBatch]) -> PreferenceBatch:
        """Concatenate batches of equal K in their order; optional tensors that some lack are left out."""
        return cls(
            prompt_tokens=torch.cat([part.prompt_tokens for part in parts]),
            prompt_lengths=torch.cat([part.prompt_lengths for part in parts]),
            response_tokens=torch.cat([part.response_tokens for part in parts]),
            response_lengths=torch.cat([part.response_lengths for part in parts]),
            ref_logps=concat_optional([part.ref_logps for part in parts]),
            margins=concat_optional([part.margins for part in parts]),
            factors=concat_optional([part.factors for part in parts]),
            logp_weights=concat_optional([part.logp_weights for part in parts]),
            ref_token_logps=concat_optional([part.ref_token_logps for part in parts]),
            rollout_token_logps=concat_optional([part.rollout_token_logps for part in parts]),
            scored=_concat_scored(parts),
        )

    def choose(self, prompts: Tensor, responses: Tensor) -> PreferenceBatch:
        """Select responses by prompt, such as a pair out of the K that were sampled.

        Args:
            prompts: [N] int64 positions of prompts, which may repeat.
            responses: [N, k] int64 indices of the k responses to select, in order.

        Returns:
            N prompts with k responses each, without the optional tensors of pairs and without `ref_token_logps`.
        """
        all_prompts, all_ranges = self.prompts(), self._by_response(torch.arange(len(self.response_tokens)))
        places = torch.cat(
            [all_ranges[p][k] for p, row in zip(prompts.tolist(), responses.tolist(), strict=True) for k in row]
        )
        return PreferenceBatch(
            prompt_tokens=torch.cat([all_prompts[p] for p in prompts.tolist()]),
            prompt_lengths=self.prompt_lengths[prompts],
            response_tokens=self.response_tokens[places],
            response_lengths=self.response_lengths[prompts[:, None], responses],
            ref_logps=None if self.ref_logps is None else self.ref_logps[prompts[:, None], responses],
            logp_weights=None if self.logp_weights is None else self.logp_weights[prompts[:, None], responses],
            rollout_token_logps=None if self.rollout_token_logps is None else self.rollout_token_logps[places],
            scored=None if self.scored is None else self.scored[places],
        )

    def with_ref_logps(self, ref_logps: Tensor) -> PreferenceBatch:
        """Return the same batch with reference log-probabilities [P, K], float32 or float64, in nats."""
        return replace(self, ref_logps=ref_logps)


def concat_optional(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate tensors along their first axis; None where one of them is missing.

    Args:
        parts: [N, ...] values of one dtype and one unit, or None.
    """
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


def _concat_scored(parts: Sequence[PreferenceBatch]) -> Tensor | None:
    """Concatenate which tokens are scored; in a part that does not say so, all are."""
    if all(part.scored is None for part in parts):
        return None
    masks = [(part.scored, part.response_tokens) for part in parts]
    return torch.cat([torch.ones_like(t, dtype=torch.bool) if mask is None else mask for mask, t in masks])
