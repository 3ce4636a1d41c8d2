"""One response of the policy and one of another model to each prompt, as XPO and Nash-MD need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch, concat_responses
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.rollout.mixture_policy import TokenModel


@dataclass(frozen=True)
class PairedGenerator:
    """Generates two responses per prompt: response 0 by the policy, response 1 by the other model.

    Example:
        PairedGenerator.between(policy, reference, settings, max_new_tokens=256, stop_ids=frozenset({2}), seed=1234)
    """

    policy: Generator
    other: Generator

    @classmethod
    def between(
        cls,
        policy: TokenModel,
        other: TokenModel,
        settings: RolloutConfig,
        *,
        max_new_tokens: int,
        stop_ids: frozenset[int],
        seed: int,
    ) -> PairedGenerator:
        """Build two generators that differ only in the model; the arguments are those of `Generator`."""
        one = replace(settings, n_samples_per_prompt=1)
        first, second = (
            Generator(model, one, max_new_tokens=max_new_tokens, stop_ids=stop_ids, seed=seed)
            for model in (policy, other)
        )
        return cls(first, second)

    def rollout(
        self, prompts: Sequence[Tensor], rows: Sequence[int], sample_numbers: Sequence[int], version: int
    ) -> RolloutBatch:
        """Generate both responses to each prompt.

        Args:
            prompts: Prompts, each [length] integer token ids.
            rows: Dataset row of each prompt.
            sample_numbers: Position of each prompt in the order of the run.
            version: Version of the policy.
        """
        ours = self.policy.rollout(prompts, rows, sample_numbers, version)
        theirs = self.other.rollout(prompts, rows, [other_sample_number(number) for number in sample_numbers], version)
        return concat_responses(ours, theirs)


def other_sample_number(sample_number: int) -> int:
    """Return the sample number of the other model's response: a negative one, which no policy response uses."""
    return -1 - sample_number
