"""The reward: the scorer of rollouts, on one process.

A reward model runs on all processes of a replica; functions and judges are called by its output rank only, which also
has the process of a judge model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from typing_extensions import override

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.data.batching.data_parallel_split import shard
from mindspeed_dpo.data.tokenization.tokenizer import load_tokenizer
from mindspeed_dpo.workers.rewards.detokenization import TextReader
from mindspeed_dpo.workers.rewards.function_scorer import FunctionScorer, open_functions
from mindspeed_dpo.workers.rewards.judge import JudgeScorer
from mindspeed_dpo.workers.rewards.judge_model_scorer import JudgeModelScorer
from mindspeed_dpo.workers.rewards.judge_model_setup import judge_model_scorer
from mindspeed_dpo.workers.rewards.reward_model_scorer import ModelScorer, build_model_scorer
from mindspeed_dpo.workers.rewards.reward_tokenizer import policy_tokenizer
from mindspeed_dpo.workers.role_interfaces.reward_interface import Reward
from mindspeed_dpo.workers.scorer import NoScorer, PromptColumns, Scored, Scorer
from mindspeed_dpo.workers.setup.worker_context import WorkerContext

logger = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """Prompts could not be scored, and `reward_failure` is stop."""


class RewardWorker(Reward):
    """One process of the reward: its replica's share of the rollouts, and the configured scorer."""

    def __init__(self, context: WorkerContext, role: RoleConfig, dataset: PromptColumns) -> None:
        """Build the scorer.

        Args:
            context: Context of this process.
            role: Settings of the reward.
            dataset: The prompts of the rollouts, for their columns.
        """
        self._place = context.place
        self._penalty = role.pairing.missing_eos_penalty
        self._stop_on_failure = role.reward.reward_failure == "stop"
        self._scorer = SCORER_BUILDERS[role.reward.reward_source](context, role, dataset)
        self._needs_all_replicas = isinstance(self._scorer, ModelScorer) and self._scorer.needs_all_replicas

    @override
    def score(self, rollouts: RolloutBatch) -> Scored | None:
        own = shard(rollouts.num_prompts, self._place.dp_rank, self._place.topology.dp)
        if not own and not self._needs_all_replicas:
            return Scored(np.zeros((0, rollouts.num_responses), np.float32)) if self._place.is_output else None
        share = rollouts.select(own)
        scored = self._scorer.score(share)
        if scored is None:
            return None
        missing_eos = (~share.ended).numpy().astype(np.float32)
        return self._checked(scored.validated(share.rows.tolist()).minus(self._penalty * missing_eos))

    @override
    def check_alive(self) -> None:
        if isinstance(self._scorer, JudgeModelScorer):
            self._scorer.check_alive()

    def _checked(self, scored: Scored) -> Scored:
        for message in scored.failures.values():
            logger.warning("not scored: %s", message)
        if scored.failures and self._stop_on_failure:
            first = next(iter(scored.failures.values()))
            raise RewardError(
                f"{len(scored.failures)} of {len(scored.scores)} prompts could not be scored: {first}; "
                "reward_failure: drop would leave them out"
            )
        return scored


def _function_scorer(context: WorkerContext, role: RoleConfig, dataset: PromptColumns) -> Scorer:
    if not context.place.is_output:
        return NoScorer()
    settings, reader = role.reward, _reader(context, role, dataset)
    return FunctionScorer(open_functions(settings), settings.reward_functions, settings.reward_weights, reader)


def _judge_scorer(context: WorkerContext, role: RoleConfig, dataset: PromptColumns) -> Scorer:
    if not context.place.is_output:
        return NoScorer()
    reader, seed = _reader(context, role, dataset), context.run.loop.seed
    return JudgeScorer(open_functions(role.reward), str(role.reward.judge), reader, seed=seed)


def _reader(context: WorkerContext, role: RoleConfig, dataset: PromptColumns) -> TextReader:
    """Return a decoder of rollouts, which hold tokens of the policy's tokenizer."""
    settings = role.reward
    return TextReader(
        load_tokenizer(policy_tokenizer(context.run)),
        dataset,
        settings.dataset_additional_keys,
        extract_answer=settings.extract_content_for_reward,
    )


SCORER_BUILDERS: dict[str, Callable[[WorkerContext, RoleConfig, PromptColumns], Scorer]] = {
    "functions": _function_scorer,
    "judge": _judge_scorer,
    "judge_model": judge_model_scorer,
    "model": build_model_scorer,
}
"""Builders of scorers by `reward_source`."""
