"""Generation with continuous batching: the slot of a finished response is reused at once.

A response is a bitwise deterministic function of weights, prompt, settings, seed, sample number and response index k:
each prompt is prefilled by itself, once for all its responses, and a decoding pass gives a row the bits that it has
in a pass over a fixed number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.rollout.decode_loop import DecodeLoop, DecodeStats
from mindspeed_dpo.rollout.kv_cache import BLOCK, capacity_of
from mindspeed_dpo.rollout.mixture_policy import TokenModel


@dataclass(frozen=True)
class PromptResponses:
    """The K responses to one prompt.

    Example:
        One response of two tokens, the second of which ended it.

            PromptResponses((tensor([7, 2]),), (True,), (-0.5,), (tensor([-0.4, -0.1]),))

    Attributes:
        responses: Token ids of each response, [length] int32, including the stop token.
        ended: Whether each response ended with a stop token.
        logps: Log-probability of each response at temperature 1 without filters, in nats; None unless requested.
        token_logps: Those of their tokens, each [length] float32, in nats; None unless requested.
    """

    responses: tuple[Tensor, ...]
    ended: tuple[bool, ...]
    logps: tuple[float, ...] | None
    token_logps: tuple[Tensor, ...] | None = None


class Generator:
    """Generates responses with one model.

    Attributes:
        work: Counts of the last call.
    """

    def __init__(
        self,
        model: TokenModel,
        settings: RolloutConfig,
        *,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        seed: int,
    ) -> None:
        """Set up the generator; the cache is allocated per call.

        Args:
            model: The model to sample from, such as the policy.
            settings: Sampling and batching; `n_samples_per_prompt` is K.
            max_new_tokens: Maximum length of a response in tokens.
            stop_ids: Token ids that end a response.
            seed: Seed of the run.

        Raises:
            ValueError: max_new_tokens is not positive.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
        self.model, self.settings, self.max_new_tokens = model, settings, max_new_tokens
        self.stop_ids, self.seed = stop_ids, seed
        self.work = DecodeStats()

    def generate(
        self, prompts: Sequence[Tensor], sample_numbers: Sequence[int], with_logps: bool = True
    ) -> list[PromptResponses]:
        """Generate K responses to each prompt, the same on every tensor-parallel rank.

        Replicas that share experts make this call together, also those that have no prompts.

        Args:
            prompts: Prompts, each [length] integer token ids.
            sample_numbers: Position of each prompt in the order of the run; seeds the sampling, with `seed` and k.
            with_logps: Whether to sum log-probabilities.

        Raises:
            ValueError: A prompt is empty or has a token id outside the vocabulary, or the cache would exceed
                max_tokens_to_oom.
            FloatingPointError: The policy's logits are not finite.
        """
        if len(prompts) != len(sample_numbers):
            raise ValueError(f"{len(prompts)} prompts need as many sample numbers, got {len(sample_numbers)}")
        check_prompts(prompts, self.model.model.vocab_size)
        self.work = DecodeStats()
        if not prompts and not self.model.shares_experts:
            return []
        loop = DecodeLoop(self.model, self.settings, self.max_new_tokens, self.stop_ids, with_logps, self.work)
        with torch.inference_mode(), self.model.packed_weights(self.settings.decode_rows):
            sampled = loop.run(prompts, sample_numbers, self.seed, *self._size(prompts)) if prompts else []
            while self.model.join_pass():
                self.work.joined_passes += 1
        return [
            PromptResponses(
                tuple(torch.tensor(response.tokens, dtype=torch.int32) for response in row),
                tuple(response.ended for response in row),
                tuple(sum(response.logps) for response in row) if with_logps else None,
                tuple(torch.tensor(response.logps) for response in row) if with_logps else None,
            )
            for row in sampled
        ]

    def rollout(
        self,
        prompts: Sequence[Tensor],
        rows: Sequence[int],
        sample_numbers: Sequence[int],
        version: int,
    ) -> RolloutBatch:
        """Generate responses and return them as a batch.

        Args:
            prompts: Prompts, each [length] integer token ids.
            rows: Dataset row of each prompt.
            sample_numbers: Position of each prompt in the order of the run.
            version: Version of the policy.
        """
        responses = self.generate(prompts, sample_numbers)
        return rollout_batch(prompts, rows, responses, version, self.settings.n_samples_per_prompt)

    def _size(self, prompts: Sequence[Tensor]) -> tuple[int, int]:
        """Compute the number of slots and the positions per slot."""
        longest = max(len(prompt) for prompt in prompts)
        capacity = capacity_of(longest + self.max_new_tokens)
        slots = min(self.settings.rollout_slots, len(prompts) * self.settings.n_samples_per_prompt)
        limit = self.settings.max_tokens_to_oom
        if slots * capacity > limit:
            fitting = limit // capacity
            advice = f"set rollout_slots to at most {fitting} or" if fitting else "shorten prompts and responses, or"
            raise ValueError(
                f"the cache would hold {slots * capacity} tokens: {slots} responses of {longest} prompt and "
                f"{self.max_new_tokens} new tokens in blocks of {BLOCK}; max_tokens_to_oom={limit} allows fewer; "
                f"{advice} raise max_tokens_to_oom to {slots * capacity}"
            )
        return slots, capacity


def check_prompts(prompts: Sequence[Tensor], vocab_size: int) -> None:
    """Check that a model with this vocabulary can read the prompts, each [length] integer token ids.

    Raises:
        ValueError: A prompt is empty, or has a token id outside the vocabulary.
    """
    for place, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {place} of {len(prompts)} is empty; it must have at least one token")
        if int(prompt.min()) < 0 or int(prompt.max()) >= vocab_size:
            raise ValueError(
                f"prompt {place} of {len(prompts)} has token ids from {int(prompt.min())} to {int(prompt.max())}, "
                f"the model has 0 to {vocab_size - 1}; check that it was written with the model's tokenizer"
            )


def rollout_batch(
    prompts: Sequence[Tensor], rows: Sequence[int], results: Sequence[PromptResponses], version: int, num_responses: int
) -> RolloutBatch:
    """Collect the responses of one replica, possibly none, in a batch.

    Args:
        prompts: Prompts, each [length] integer token ids.
        rows: Dataset row of each prompt.
        results: Responses to each prompt.
        version: Version of the policy that sampled them.
        num_responses: Number of responses K per prompt.
    """
    responses = [response for one in results for response in one.responses]
    lengths = torch.tensor([len(response) for response in responses], dtype=torch.int32)
    empty = [torch.zeros(0, dtype=torch.int32)]
    shape = (len(prompts), num_responses)
    logps = [logp for one in results for logp in one.logps or ()]
    token_logps = [logp for one in results for logp in one.token_logps or ()]
    return RolloutBatch(
        samples=PreferenceBatch(
            prompt_tokens=torch.cat([*empty, *(prompt.cpu().int() for prompt in prompts)]),
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
            response_tokens=torch.cat([*empty, *responses]),
            response_lengths=lengths.view(shape),
            rollout_token_logps=_concatenated(token_logps) if len(token_logps) == len(responses) else None,
        ),
        rows=torch.tensor(list(rows), dtype=torch.int64),
        ended=torch.tensor([end for one in results for end in one.ended], dtype=torch.bool).view(shape),
        logps=torch.tensor(logps, dtype=torch.float64).view(shape) if len(logps) == len(responses) else None,
        version=version,
    )


def _concatenated(values: Sequence[Tensor]) -> Tensor:
    """Concatenate [length] float32 values, in nats, of no or several responses."""
    return torch.cat([torch.zeros(0), *values])
