"""The frozen model that the policy is compared with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import torch

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.train_engine import ScoringEngine, TrainingEngine
from mindspeed_dpo.models.lora import adapters_off
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.batching.batch_builder import Feed, PairSource
from mindspeed_dpo.workers.interfaces import Pairs, Share
from mindspeed_dpo.workers.logprobs import score_pairs, score_tokens
from mindspeed_dpo.workers.setup.builders import Seat, build_feed, build_model, offload_from


def reference_of(
    seat: Seat, role: RoleConfig, dataset: PairSource | None, actor: ActorWorker | None
) -> ReferenceWorker:
    """The reference of this process: a model of its own, or the actor's with its adapters off where that is enough."""
    alpha = role.loss.ld_alpha
    if actor is not None and seat.run.is_ref_within_actor:
        feed = build_feed(seat, replace(role, parallel=actor.role.parallel), dataset)
        return ReferenceWorker(actor.engine, feed, alpha, partial(adapters_off, actor.engine.model))
    engine = ScoringEngine(build_model(seat, role), offload_from=offload_from(seat, role))
    worker = ReferenceWorker(engine, build_feed(seat, role, dataset), alpha, engine.at_work)
    if actor is None or not role.reference.sync_ref_model:
        return worker
    actor.follower = engine.model
    return replace(worker, followed=actor.engine)


@dataclass(frozen=True)
class ReferenceWorker:
    """One process of the reference.

    Attributes:
        engine: Scores.
        feed: Its view of the pairs.
        ld_alpha: See `response_logps`.
        at_work: Makes the engine's model the reference for a while.
        followed: Engine of the policy that it follows, in the same layout; None where it stays as it is.
    """

    engine: TrainingEngine | ScoringEngine
    feed: Feed
    ld_alpha: float
    at_work: Callable[[], AbstractContextManager[None]]
    followed: TrainingEngine | None = None

    def log_probs(self, pairs: Pairs) -> Share | None:
        """See `score_pairs`."""
        with self.at_work():
            return score_pairs(self.engine, self.feed, pairs, self.ld_alpha)

    def token_log_probs(self, answers: PreferenceBatch) -> Share | None:
        """See `score_tokens`."""
        with self.at_work():
            return score_tokens(self.engine, self.feed, answers)

    def follow(self, alpha: float) -> None:
        """Become (1 - alpha) of what it is and alpha of the policy: equation 3 of Gorbatovski et al. 2024 (TR-DPO).

        arXiv:2404.09656; alpha 1 copies the policy.
        """
        assert self.followed is not None, "a reference follows only where sync_ref_model is set"
        with torch.no_grad(), self.followed.parameters_gathered():
            for mine, theirs in zip(self.engine.model.parameters(), self.followed.model.parameters(), strict=True):
                mine.copy_(torch.lerp(mine.float(), theirs.float(), alpha))
