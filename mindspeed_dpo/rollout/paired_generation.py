"""One response of the policy and one of another model to every prompt: what XPO and Nash-MD learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch, side_by_side
from mindspeed_dpo.config.settings.online import RolloutConfig
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.rollout.mixture_policy import TokenModel


@dataclass(frozen=True)
class Duel:
    """Answers prompts as `Generator.rollout` does: response 0 is the policy's, response 1 the other's."""

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
    ) -> Duel:
        """Two generators that differ in the model alone; the arguments are those of `Generator`."""
        one = replace(settings, n_samples_per_prompt=1)
        first, second = (
            Generator(model, one, max_new_tokens=max_new_tokens, stop_ids=stop_ids, seed=seed)
            for model in (policy, other)
        )
        return cls(first, second)

    def rollout(
        self, prompts: Sequence[Tensor], rows: Sequence[int], sample_numbers: Sequence[int], version: int
    ) -> RolloutBatch:
        """See `Generator.rollout`."""
        ours = self.policy.rollout(prompts, rows, sample_numbers, version)
        theirs = self.other.rollout(prompts, rows, [others_number(number) for number in sample_numbers], version)
        return side_by_side(ours, theirs)


def others_number(sample_number: int) -> int:
    """The sample number of the other's response: the negative ones are free, so no two responses draw alike."""
    return -1 - sample_number
