"""Continuous batching: prompts become answers, and a finished response makes room for the next at once.

A response is bitwise a function of the weights, the prompt, the settings, the seed, its sample number and its k:
prompts are read one at a time, once for all their responses, and a decoding pass always has the same number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mindspeed_dpo.batches import PreferenceBatch, RolloutBatch
from mindspeed_dpo.config.settings.online import RolloutConfig
from mindspeed_dpo.rollout.decode_loop import Session, Work
from mindspeed_dpo.rollout.kv_cache import BLOCK, capacity_of
from mindspeed_dpo.rollout.mixture_policy import TokenModel


@dataclass(frozen=True)
class Answers:
    """The K responses to one prompt.

    Attributes:
        responses: Each [length] int32, its stop token included.
        ended: Whether each ended with a stop token.
        logps: Log-probability of each at temperature 1 without filters, in nats; None where it was not asked for.
    """

    responses: tuple[Tensor, ...]
    ended: tuple[bool, ...]
    logps: tuple[float, ...] | None


class Generator:
    """Answers prompts with one model.

    Attributes:
        work: What the last call did.
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
        """Set up; nothing is allocated before a call.

        Args:
            model: What answers, such as the policy.
            settings: How to sample, and how much at once; n_samples_per_prompt is K as it stands.
            max_new_tokens: Longest response.
            stop_ids: Tokens that end a response.
            seed: Of the run.

        Raises:
            ValueError: max_new_tokens is not positive.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
        self.model, self.settings, self.max_new_tokens = model, settings, max_new_tokens
        self.stop_ids, self.seed = stop_ids, seed
        self.work = Work()

    def generate(
        self, prompts: Sequence[Tensor], sample_numbers: Sequence[int], with_logps: bool = True
    ) -> list[Answers]:
        """Answer prompts; on every tensor rank the same.

        Args:
            prompts: Each [length] integers.
            sample_numbers: Place of each prompt in the run's order; with seed and k it decides what is sampled.
            with_logps: Also sum log-probabilities.

        Raises:
            ValueError: A prompt is empty or holds a token that the model has not, or the cache would hold more than
                max_tokens_to_oom.
            FloatingPointError: The policy's logits are not finite.
        """
        self._check(prompts, sample_numbers)
        self.work = Work()
        if not prompts:
            return []
        slots, capacity = self._size(prompts)
        session = Session(self.model, self.settings, self.max_new_tokens, self.stop_ids, with_logps, self.work)
        with torch.inference_mode(), self.model.arranged(self.settings.decode_rows):
            drawn = session.run(prompts, sample_numbers, self.seed, slots, capacity)
        return [
            Answers(
                tuple(torch.tensor(response.tokens, dtype=torch.int32) for response in row),
                tuple(response.ended for response in row),
                tuple(response.logp for response in row) if with_logps else None,
            )
            for row in drawn
        ]

    def rollout(
        self,
        prompts: Sequence[Tensor],
        rows: Sequence[int],
        sample_numbers: Sequence[int],
        version: int,
        with_logps: bool = True,
    ) -> RolloutBatch:
        """Answer prompts and pack them as a batch; `rows` are their dataset rows, `version` that of the policy."""
        answers = self.generate(prompts, sample_numbers, with_logps)
        return rollout_batch(prompts, rows, answers, version, self.settings.n_samples_per_prompt)

    def _check(self, prompts: Sequence[Tensor], sample_numbers: Sequence[int]) -> None:
        if len(prompts) != len(sample_numbers):
            raise ValueError(f"{len(prompts)} prompts need as many sample numbers, got {len(sample_numbers)}")
        vocab = self.model.model.vocab_size
        for place, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {place} of {len(prompts)} is empty; a response needs a token before it")
            if int(prompt.min()) < 0 or int(prompt.max()) >= vocab:
                raise ValueError(
                    f"prompt {place} of {len(prompts)} holds tokens from {int(prompt.min())} to {int(prompt.max())}, "
                    f"the model has 0 to {vocab - 1}; was it written with another tokenizer?"
                )

    def _size(self, prompts: Sequence[Tensor]) -> tuple[int, int]:
        """Slots and positions of each."""
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


def rollout_batch(
    prompts: Sequence[Tensor], rows: Sequence[int], answers: Sequence[Answers], version: int, num_responses: int
) -> RolloutBatch:
    """Pack answered prompts, possibly none, as one replica's part of a step.

    Args:
        prompts: Each [length] integers.
        rows: Dataset row of each prompt.
        answers: Of each prompt.
        version: Of the policy that answered.
        num_responses: K.
    """
    responses = [response for one in answers for response in one.responses]
    lengths = torch.tensor([len(response) for response in responses], dtype=torch.int32)
    empty = [torch.zeros(0, dtype=torch.int32)]
    shape = (len(prompts), num_responses)
    logps = [logp for one in answers for logp in one.logps or ()]
    return RolloutBatch(
        answers=PreferenceBatch(
            prompt_tokens=torch.cat([*empty, *(prompt.cpu().int() for prompt in prompts)]),
            prompt_lengths=torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32),
            response_tokens=torch.cat([*empty, *responses]),
            response_lengths=lengths.view(shape),
        ),
        rows=torch.tensor(list(rows), dtype=torch.int64),
        ended=torch.tensor([end for one in answers for end in one.ended], dtype=torch.bool).view(shape),
        logps=torch.tensor(logps, dtype=torch.float64).view(shape) if len(logps) == len(responses) else None,
        version=version,
    )
