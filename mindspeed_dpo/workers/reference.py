"""The frozen model that the policy is compared with."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.training import ScoringEngine, TrainingEngine
from mindspeed_dpo.models.adapters import adapters_off
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.building import Seat, build_feed, build_model, offload_from
from mindspeed_dpo.workers.feed import PairSource
from mindspeed_dpo.workers.roles import Logps, Pairs
from mindspeed_dpo.workers.scoring import score_pairs, score_tokens


def reference_of(
    seat: Seat, role: RoleConfig, dataset: PairSource | None, actor: ActorWorker | None
) -> ReferenceWorker | ActorWithoutAdapters:
    """The reference of this process: a model of its own, or the actor beside it where that is enough."""
    if actor is not None and seat.run.is_ref_within_actor:
        return ActorWithoutAdapters(seat, role, dataset, actor)
    worker = ReferenceWorker(seat, role, dataset)
    if actor is not None and role.reference.sync_ref_model:
        worker.followed = actor.engine
        actor.follower = worker.engine.model
    return worker


class ActorWithoutAdapters:
    """The actor's own weights with its adapters off: the policy as it would be without training."""

    def __init__(self, seat: Seat, role: RoleConfig, dataset: PairSource | None, actor: ActorWorker) -> None:
        self.engine = actor.engine
        self.feed = build_feed(seat, replace(role, parallel=actor.role.parallel), dataset)
        self._ld_alpha = role.loss.ld_alpha

    def log_probs(self, pairs: Pairs) -> Logps | None:
        """See `score_pairs`."""
        with adapters_off(self.engine.model):
            return score_pairs(self.engine, self.feed, pairs, self._ld_alpha)

    def token_log_probs(self, answers: PreferenceBatch) -> NDArray[np.float32] | None:
        """See `score_tokens`."""
        with adapters_off(self.engine.model):
            return score_tokens(self.engine, self.feed, answers)


class ReferenceWorker:
    """One process of the reference.

    Attributes:
        followed: Engine of the policy that it follows, in the same layout; None where it stays as it is.
    """

    followed: TrainingEngine | None = None

    def __init__(self, seat: Seat, role: RoleConfig, dataset: PairSource | None) -> None:
        self.engine = ScoringEngine(build_model(seat, role), offload_from=offload_from(seat, role))
        self.feed = build_feed(seat, role, dataset)
        self._ld_alpha = role.loss.ld_alpha

    def log_probs(self, pairs: Pairs) -> Logps | None:
        """See `score_pairs`."""
        with self.engine.at_work():
            return score_pairs(self.engine, self.feed, pairs, self._ld_alpha)

    def token_log_probs(self, answers: PreferenceBatch) -> NDArray[np.float32] | None:
        """See `score_tokens`."""
        with self.engine.at_work():
            return score_tokens(self.engine, self.feed, answers)

    def follow(self, alpha: float) -> None:
        """Become (1 - alpha) of what it is and alpha of the policy: equation 3 of Gorbatovski et al. 2024 (TR-DPO).

        arXiv:2404.09656; alpha 1 copies the policy.
        """
        assert self.followed is not None, "a reference follows only where sync_ref_model is set"
        with torch.no_grad(), self.followed.parameters_gathered():
            for mine, theirs in zip(self.engine.model.parameters(), self.followed.model.parameters(), strict=True):
                mine.copy_(torch.lerp(mine.float(), theirs.float(), alpha))
