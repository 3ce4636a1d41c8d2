"""The frozen model that the policy is compared with."""

from __future__ import annotations

from dataclasses import replace

from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.training import ScoringEngine
from mindspeed_dpo.models.adapters import adapters_off
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.building import Seat, build_feed, build_model, offload_from
from mindspeed_dpo.workers.feed import PairSource
from mindspeed_dpo.workers.roles import Logps, Pairs
from mindspeed_dpo.workers.scoring import score_pairs


def reference_of(
    seat: Seat, role: RoleConfig, dataset: PairSource | None, actor: ActorWorker | None
) -> ReferenceWorker | ActorWithoutAdapters:
    """The reference of this process: a model of its own, or the actor beside it where that is enough."""
    if actor is not None and seat.run.is_ref_within_actor:
        return ActorWithoutAdapters(seat, role, dataset, actor)
    return ReferenceWorker(seat, role, dataset)


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


class ReferenceWorker:
    """One process of the reference."""

    def __init__(self, seat: Seat, role: RoleConfig, dataset: PairSource | None) -> None:
        self.engine = ScoringEngine(build_model(seat, role), offload_from=offload_from(seat, role))
        self.feed = build_feed(seat, role, dataset)
        self._ld_alpha = role.loss.ld_alpha

    def log_probs(self, pairs: Pairs) -> Logps | None:
        """See `score_pairs`."""
        with self.engine.at_work():
            return score_pairs(self.engine, self.feed, pairs, self._ld_alpha)
