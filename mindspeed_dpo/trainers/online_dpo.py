"""Online DPO: the policy generates responses, a reward scores them, and the policy trains on pairs of them.

After Guo et al. 2024 (arXiv:2402.04792), with any reward; `online_methods` has the steps that differ for XPO and
Nash-MD. The trainer only orders the calls; the roles compute on their worker groups. It passes sampled tokens, scores
and log-probabilities, no weights.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.algorithms.pairing import Selection
from mindspeed_dpo.algorithms.rollout_metrics import rollout_metrics
from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.pair_selection import PairingConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup, RewardGroup, RolloutGroup
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.observability.live_status import live_status
from mindspeed_dpo.observability.tracker import log_text
from mindspeed_dpo.trainers.loop import TrainingLoop
from mindspeed_dpo.trainers.nan_check import check_finite
from mindspeed_dpo.trainers.online_evaluation import OnlineEvaluation
from mindspeed_dpo.trainers.online_methods import OnlineMethod, ReferenceLogprobs, method_of
from mindspeed_dpo.trainers.rollout_prefetch import RolloutPrefetcher, StepRollouts
from mindspeed_dpo.trainers.sample_table import SampleTable
from mindspeed_dpo.trainers.sample_texts import responses_as_markdown
from mindspeed_dpo.trainers.step_timer import StepTimer
from mindspeed_dpo.workers.scorer import Scored, Verdicts

logger = logging.getLogger(__name__)


class NothingScoredError(ValueError):
    """No response of a step could be scored."""


@dataclass
class OnlineDPOTrainer(TrainingLoop):
    """Trains the policy on its own responses.

    Attributes:
        actor: The policy as it is trained.
        schedule: Length of the run and intervals.
        tracker: Receives the metrics.
        rollout: The policy as it generates responses.
        reward: Scores responses.
        reference: Computes the reference's log-probabilities.
        sampler: Samples the prompts of each step; its numbers index `train_rows`.
        train_rows: [n] int64 dataset rows of prompts.
        pairing: Settings of the method and of pair selection.
        samples: Logs sample responses at an interval.
        evaluation: Evaluates the policy on held-out prompts; None without any.
        staleness: Steps between generating responses and training on them, 0 or 1; `rollout_prefetch` explains it.
        saved_rollouts: Rollouts for the first step from a checkpoint, if it has them.
        is_reward_aware: Whether the loss reads the difference of the scores of a pair.
        num_tokens: Input tokens of both responses of all pairs trained on so far, once per pass over them, the prompt
            counted once per response.
    """

    actor: ActorGroup
    rollout: RolloutGroup
    reward: RewardGroup
    reference: ReferenceGroup
    sampler: PairSampler
    train_rows: NDArray[np.int64]
    pairing: PairingConfig
    samples: SampleTable
    evaluation: OnlineEvaluation | None = None
    staleness: int = 0
    saved_rollouts: RolloutBatch | None = None
    is_reward_aware: bool = False
    num_tokens: int = 0

    def step(self, step: int) -> dict[str, float]:
        """Do one policy update: generate, score, select pairs, train, transfer the weights."""
        timer = StepTimer()
        with timer("timing/gen"), live_status.phase("generation"):
            generated = self.prefetcher.rollouts_of(step)
        rollouts = generated.rollouts
        scored, ref_logps = self._score(step, rollouts, timer)
        scores = scored.scores
        selection = self.method.select(rollouts.samples, scores, seed=(self.sampler.seed, step))
        metrics = self._train(step, ref_logps, selection, scores, timer)
        with timer("timing/gen"), live_status.phase("generation"):
            self.prefetcher.advance()
        with timer("timing/sync"), live_status.phase("weights to the rollout"):
            self.rollout.update_weights(step + 1)
            self.reference.sync_if_due(step + 1)
        if samples := self.samples.write(step + 1, rollouts, scores, selection):
            log_text(self.tracker, step + 1, "responses", responses_as_markdown(samples))
        beta = metrics.get("beta", 0.0)
        own = self.method.own
        about = rollout_metrics(rollouts, scores, selection, ref_logps.logps, beta=beta, version=step, own=own)
        throughput = self._throughput(step + 1, generated, selection, timer)
        return {**metrics, **about, **scored.verdicts.metrics, **throughput}

    def evaluate(self, num_done: int) -> dict[str, float]:
        """Evaluate on every set if it is due; with several sets the metrics' names contain the set's."""
        if self.evaluation is None or not self.is_evaluation_due(num_done):
            return {}
        timer = StepTimer()
        with timer("timing/eval"), live_status.phase("evaluation"):
            metrics = self.evaluation.metrics()
        return {**metrics, **timer.seconds}

    def totals(self) -> dict[str, int]:
        """Return the tokens trained on so far, which depend on responses that are not stored."""
        return {"num_tokens": self.num_tokens}

    def prefetched(self) -> RolloutBatch | None:
        """Return rollouts already generated for the next step; None with staleness 0."""
        return self.prefetcher.prefetched()

    @cached_property
    def prefetcher(self) -> RolloutPrefetcher:
        """Source of the rollouts of each step."""
        saved = StepRollouts(self.saved_rollouts) if self.saved_rollouts is not None else None
        last_step = self.schedule.last_step
        return RolloutPrefetcher(self.rollout, self.sampler, self.train_rows, last_step, self.staleness, saved)

    @cached_property
    def method(self) -> OnlineMethod:
        """The method by which scored responses are trained on."""
        return method_of(self.pairing, is_reward_aware=self.is_reward_aware)

    def _score(self, step: int, rollouts: RolloutBatch, timer: StepTimer) -> tuple[Scored, ReferenceLogprobs]:
        """Return scores [P, K] and the reference's log-probabilities; both roles work at the same time if they can."""
        with timer("timing/adv"), live_status.phase("scoring"):
            pending_scores = self.reward.start_score(rollouts)
            pending_logps = self.method.start_ref_logps(self.reference, rollouts.samples)
            # Only now: a role in the rollout's processes would have to wait for the generation.
            self.prefetcher.prefetch(step + 1)
            with timer("timing/ref"):
                ref_logps = pending_logps()
            scored = pending_scores()
        _check_verdicts(step, scored.verdicts)
        if scored.failures:
            first = next(iter(scored.failures.values()))
            message = "step %d: %d prompts could not be scored; the first: %s"
            logger.warning(message, step + 1, len(scored.failures), first)
            if len(scored.failures) == rollouts.num_prompts:
                raise NothingScoredError(f"step {step + 1}: no response could be scored: {first}")
        return scored, ref_logps

    def _train(
        self,
        step: int,
        ref_logps: ReferenceLogprobs,
        selection: Selection,
        scores: NDArray[np.float32],
        timer: StepTimer,
    ) -> dict[str, float]:
        """Update the policy; without a pair it is only compared with the rollout."""
        if not len(selection):
            logger.warning("step %d: no pair is left, the policy is unchanged: %s", step + 1, selection.left_out)
            is_known = ref_logps.responses.rollout_token_logps is not None
            return self.actor.rollout_difference(ref_logps.responses) if is_known else {}
        pairs, pair_ref_logps = self.method.training_batch(ref_logps, selection, scores)
        with timer("timing/update_actor"), live_status.phase("update"):
            metrics = self.actor.update(step, pairs, pair_ref_logps)
        check_finite(step, metrics)
        tokens = int((pairs.prompt_lengths[:, None] + pairs.response_lengths).sum())
        self.num_tokens += tokens * self.pairing.ppo_epochs
        return {**metrics, "tokens_per_s": tokens / timer.seconds["timing/update_actor"]}

    def _throughput(
        self, num_done: int, generated: StepRollouts, selection: Selection, timer: StepTimer
    ) -> dict[str, float]:
        sampled = int(generated.rollouts.samples.response_lengths.sum())
        return {
            **({"rollout_tokens_per_s": sampled / generated.duration_s} if generated.duration_s else {}),
            "epoch": self.sampler.epoch(num_done),
            "consumed_samples": num_done * self.sampler.global_batch_size,
            "num_tokens": self.num_tokens,
            "pairs_per_s": len(selection) / timer.elapsed_s,
            **timer.seconds,
            "timing/all": timer.elapsed_s,
        }


def _check_verdicts(step: int, verdicts: Verdicts) -> None:
    """Check that not every text of a judge model is without a verdict, whatever such a text scores.

    Raises:
        NothingScoredError: All are.
    """
    if verdicts.count and verdicts.unparsed == verdicts.count:
        cut = f" ({verdicts.cut} were cut off by judge_max_new_tokens)" if verdicts.cut else ""
        raise NothingScoredError(
            f"step {step + 1}: none of the {verdicts.count} texts of judge_model has a verdict{cut}; the first: "
            f"{verdicts.example}; change judge_template, judge_verdict or judge_max_new_tokens"
        )
