"""What scores the rollouts: one process of it. Models work in all processes of a replica, functions in one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.parallel.topology import shard
from mindspeed_dpo.workers.rewards.decoding import TextReader
from mindspeed_dpo.workers.rewards.functions import FunctionScorer, open_functions
from mindspeed_dpo.workers.rewards.judge import JudgeScorer
from mindspeed_dpo.workers.rewards.reward_model import model_scorer
from mindspeed_dpo.workers.rewards.scorer import PromptColumns, Scored, Scorer
from mindspeed_dpo.workers.rewards.tokenizers import policy_tokenizer
from mindspeed_dpo.workers.setup.builders import Seat

logger = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """Prompts could not be scored, and the run was told to stop at that."""


class RewardWorker:
    """One process of the reward: its replica's share of the rollouts, and the scorer that the settings ask for."""

    def __init__(self, seat: Seat, role: RoleConfig, dataset: PromptColumns) -> None:
        """Build the scorer.

        Args:
            seat: Where this process sits.
            role: Settings of the reward.
            dataset: The prompts that rollouts answer, for their columns.
        """
        self._place = seat.place
        self._penalty = role.pairing.missing_eos_penalty
        self._stops = role.reward.reward_failure == "stop"
        self._scorer = SCORERS[role.reward.reward_source](seat, role, dataset)

    def score(self, rollouts: RolloutBatch) -> Scored | None:
        """Score this replica's share of the rollouts of all replicas.

        Returns:
            Scores [n, K] of the n prompts of this data-parallel rank, in order, from the one process that speaks for
            the replica; None from the others. The penalty for a missing end is taken off already: what is logged is
            what decides.

        Raises:
            RewardError: A prompt could not be scored and `reward_failure` is stop.
        """
        mine = shard(rollouts.num_prompts, self._place.dp_rank, self._place.topology.dp)
        if not mine:
            return Scored(np.zeros((0, rollouts.num_responses), np.float32)) if self._place.is_output else None
        share = rollouts.select(mine)
        scored = self._scorer.score(share)
        if scored is None:
            return None
        missing = (~share.ended).numpy().astype(np.float32)
        return self._checked(scored.settled(share.rows.tolist()).less(self._penalty * missing))

    def _checked(self, scored: Scored) -> Scored:
        for sentence in scored.failures.values():
            logger.warning("not scored: %s", sentence)
        if scored.failures and self._stops:
            first = next(iter(scored.failures.values()))
            raise RewardError(
                f"{len(scored.failures)} of {len(scored.scores)} prompts could not be scored: {first}; "
                "reward_failure: drop would leave them out"
            )
        return scored


class _Silent:
    """Stands where another process of the replica calls the functions."""

    def score(self, rollouts: RolloutBatch) -> None:
        """Nothing to say."""


def _by_functions(seat: Seat, role: RoleConfig, dataset: PromptColumns) -> Scorer:
    if not seat.place.is_output:
        return _Silent()
    settings, reader = role.reward, _reader(seat, role, dataset)
    return FunctionScorer(open_functions(settings), settings.reward_functions, settings.reward_weights, reader)


def _by_judge(seat: Seat, role: RoleConfig, dataset: PromptColumns) -> Scorer:
    if not seat.place.is_output:
        return _Silent()
    reader, seed = _reader(seat, role, dataset), seat.run.loop.seed
    return JudgeScorer(open_functions(role.reward), str(role.reward.judge), reader, seed=seed)


def _reader(seat: Seat, role: RoleConfig, dataset: PromptColumns) -> TextReader:
    """Text by the tokenizer of the policy, whose tokens rollouts are."""
    settings = role.reward
    return TextReader(
        load_tokenizer(policy_tokenizer(seat.run)),
        dataset,
        settings.dataset_additional_keys,
        extract_answer=settings.extract_content_for_reward,
    )


SCORERS: dict[str, Callable[[Seat, RoleConfig, PromptColumns], Scorer]] = {
    "functions": _by_functions,
    "judge": _by_judge,
    "model": model_scorer,
}
"""Kind of scorer -> how it is built."""
