"""Online DPO: the policy answers, a reward ranks the answers, best and worst become the pair it learns from.

After Guo et al. 2024 (arXiv:2402.04792), with any reward; what XPO and Nash-MD do otherwise is in `online_methods`.
Only the order of things is here; who computes what on which device is behind the roles. Sampled tokens and scores pass
through this process, weights and activations do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.algorithms.pairing import Selection
from mindspeed_dpo.algorithms.rollout_metrics import rollout_metrics
from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.settings.online import PairingConfig
from mindspeed_dpo.data.datasets.sampler import PairSampler
from mindspeed_dpo.trainers.loop import TrainingLoop, check_finite
from mindspeed_dpo.trainers.online_methods import AsksReference, Known, OnlineMethod, method_of
from mindspeed_dpo.trainers.rollout_prefetch import Answers, Asking, AsksRollout
from mindspeed_dpo.trainers.sample_table import SampleTable
from mindspeed_dpo.trainers.timer import Stopwatch
from mindspeed_dpo.workers.interfaces import Actor
from mindspeed_dpo.workers.rewards.scorer import Scored

logger = logging.getLogger(__name__)


class StartsScores(Protocol):
    """A reward that can be asked before others have answered."""

    def start_score(self, rollouts: RolloutBatch) -> Callable[[], Scored]:
        """See `RewardHandle.start_score`."""


class NothingScoredError(ValueError):
    """Not one response of a step could be scored."""


@dataclass
class OnlineDPOTrainer(TrainingLoop):
    """Drives a policy that learns from its own answers.

    Attributes:
        actor: The policy as it learns.
        plan: Length and intervals.
        tracker: Takes the metrics.
        rollout: The policy as it answers.
        reward: Scores answers.
        reference: Knows the reference's log-probabilities.
        sampler: Says which prompts a step takes; its numbers index `train_rows`.
        train_rows: [n] int64 dataset rows of prompts.
        pairing: What is learned from answers.
        samples: Writes sample answers down now and then.
        staleness: Steps by which answers are older than the policy that learns from them, 0 or 1; see `asking`.
        earlier: Answers for the first step that an earlier run has had already.
        num_tokens: Input tokens of both responses of the pairs that were learned from so far, once for each pass over
            them, the prompt counted per response.
    """

    actor: Actor
    rollout: AsksRollout
    reward: StartsScores
    reference: AsksReference
    sampler: PairSampler
    train_rows: NDArray[np.int64]
    pairing: PairingConfig
    samples: SampleTable
    staleness: int = 0
    earlier: RolloutBatch | None = None
    num_tokens: int = 0

    def step(self, step: int) -> dict[str, float]:
        """Sample, score, pair, learn, publish: one policy update."""
        watch = Stopwatch()
        with watch("timing/gen"):
            answers = self.asking.of(step)
        rollouts = answers.rollouts
        scores, known = self._judge(step, rollouts, watch)
        selection = self.method.select(rollouts.answers, scores, seed=(self.sampler.seed, step))
        learned = self._learn(step, known, selection, scores, watch)
        with watch("timing/gen"):
            self.asking.settle()
        with watch("timing/sync"):
            self.rollout.update_weights(step + 1)
            self.reference.follow(step + 1)
        self.samples.write(step + 1, rollouts, scores, selection)
        beta = learned.get("beta", 0.0)
        own = self.method.own
        about = rollout_metrics(rollouts, scores, selection, known.logps, beta=beta, version=step, own=own)
        return {**learned, **about, **self._amounts(step + 1, answers, selection, watch)}

    def totals(self) -> dict[str, int]:
        """The tokens that were learned from: which they were depends on answers that are gone."""
        return {"num_tokens": self.num_tokens}

    def ahead(self) -> RolloutBatch | None:
        """See `TrainingLoop`; with staleness 0 there are none."""
        return self.asking.ahead()

    @cached_property
    def asking(self) -> Asking:
        """Who asks for answers, and when."""
        held = Answers(self.earlier) if self.earlier is not None else None
        return Asking(self.rollout, self.sampler, self.train_rows, self.plan.last_step, self.staleness, held)

    @cached_property
    def method(self) -> OnlineMethod:
        """How it is learned from them."""
        return method_of(self.pairing)

    def _judge(self, step: int, rollouts: RolloutBatch, watch: Stopwatch) -> tuple[NDArray[np.float32], Known]:
        """Scores [P, K] and what the reference says; both roles work at the same time where they can."""
        with watch("timing/adv"):
            scored, asked = self.reward.start_score(rollouts), self.method.ask(self.reference, rollouts.answers)
            # Not before: who sits beside the rollout would have to wait for it.
            self.asking.begin_following(step)
            with watch("timing/ref"):
                known = asked()
            found = scored()
        if found.failures:
            first = next(iter(found.failures.values()))
            told = "step %d: %d prompts could not be scored; the first: %s"
            logger.warning(told, step + 1, len(found.failures), first)
            if len(found.failures) == rollouts.num_prompts:
                raise NothingScoredError(f"step {step + 1}: no response could be scored: {first}")
        return found.scores, known

    def _learn(
        self, step: int, known: Known, selection: Selection, scores: NDArray[np.float32], watch: Stopwatch
    ) -> dict[str, float]:
        """Update the policy; without a pair it stays as it is."""
        if not len(selection):
            logger.warning("step %d: no pair is left, the policy stays as it is: %s", step + 1, selection.left_out)
            return {}
        pairs, ref_logps = self.method.lesson(known, selection, scores)
        with watch("timing/update_actor"):
            metrics = self.actor.update(step, pairs, ref_logps)
        check_finite(step, metrics)
        tokens = int((pairs.prompt_lengths[:, None] + pairs.response_lengths).sum())
        self.num_tokens += tokens * self.pairing.ppo_epochs
        return {**metrics, "tokens_per_s": tokens / watch.seconds["timing/update_actor"]}

    def _amounts(self, done: int, answers: Answers, selection: Selection, watch: Stopwatch) -> dict[str, float]:
        sampled = int(answers.rollouts.answers.response_lengths.sum())
        return {
            **({"rollout_tokens_per_s": sampled / answers.seconds} if answers.seconds else {}),
            "epoch": self.sampler.epoch(done),
            "consumed_samples": done * self.sampler.global_batch_size,
            "num_tokens": self.num_tokens,
            "pairs_per_s": len(selection) / watch.elapsed_s,
            **watch.seconds,
            "timing/all": watch.elapsed_s,
        }
