"""Evaluation of online training: greedy responses to held-out prompts, scored beside those of the reference.

The policy's response and the reference's to a prompt are scored in one call, so functions, judges and reward models
compare them in the same way as the responses that are trained on. Nothing here draws from a random state that training
uses: sampling is a function of seed, sample number and weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mindspeed_dpo.algorithms.win_rate import greedy_metrics
from mindspeed_dpo.batches import RolloutBatch, concat_responses
from mindspeed_dpo.controller.role_groups import RewardGroup, RolloutGroup
from mindspeed_dpo.observability.metric_names import EVAL_PREFIX, eval_set_metrics
from mindspeed_dpo.workers.scorer import Scored

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OnlineEvaluation:
    """Evaluates the weights that the rollout holds.

    Attributes:
        rollout: Generates the policy's responses.
        reward: Scores them.
        references: Set name -> the reference's greedy responses, K = 1, to its prompts.
        batch_size: Prompts that are scored at once.
        has_several_sets: Whether the names of metrics contain the set's.
    """

    rollout: RolloutGroup
    reward: RewardGroup
    references: Mapping[str, RolloutBatch]
    batch_size: int
    has_several_sets: bool = False

    def metrics(self) -> dict[str, float]:
        """Return the metrics of every set, their names with the evaluation prefix."""
        metrics: dict[str, float] = {}
        for name, reference in self.references.items():
            of_set = self._metrics_of(name, reference)
            metrics.update(eval_set_metrics(name, of_set) if self.has_several_sets else of_set)
        return metrics

    def _metrics_of(self, name: str, reference: RolloutBatch) -> dict[str, float]:
        policy = self.rollout.generate_greedy(reference.rows.numpy())
        both = concat_responses(policy, reference)
        scored = self._scored(both)
        scores = scored.scores
        num_failed = int((~np.isfinite(scores)).any(axis=1).sum())
        if num_failed:
            logger.warning("evaluation set %s: %d of %d prompts could not be scored", name, num_failed, len(scores))
        metrics = {**greedy_metrics(both, scores), **scored.verdicts.metrics}
        return {f"{EVAL_PREFIX}{key}": value for key, value in metrics.items()}

    def _scored(self, rollouts: RolloutBatch) -> Scored:
        """Return scores [P, 2], a batch at a time; NaN where a prompt could not be scored."""
        parts = [
            range(start, min(start + self.batch_size, rollouts.num_prompts))
            for start in range(0, rollouts.num_prompts, self.batch_size)
        ]
        return Scored.concat([self.reward.score(rollouts.select(part)) for part in parts])
