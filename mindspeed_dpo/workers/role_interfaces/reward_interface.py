"""The interface of the reward."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.scorer import Scored


class Reward(Role, ABC):
    """The scorer of responses: a reward model, the user's functions, a judge or a judge model."""

    @abstractmethod
    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """Score this replica's share of the rollouts of all replicas.

        The penalty for a missing end-of-sequence token is subtracted already: the logged scores are those that decide.

        Args:
            rollouts: P prompts with K responses each.

        Returns:
            Scores [p, K] float32 of the p prompts of this data-parallel rank, in order, from its output rank.

        Raises:
            RewardError: A prompt could not be scored and `reward_failure` is stop.
        """
