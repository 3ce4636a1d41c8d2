"""What answers prompts in a rollout: the policy alone, or beside it the reference or a mixture with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.online import NASH_MD
from mindspeed_dpo.parallel.topology import Place
from mindspeed_dpo.rollout.decoder import RolloutModel
from mindspeed_dpo.rollout.generator import Generator
from mindspeed_dpo.rollout.mixture_policy import MixedModel, TokenModel
from mindspeed_dpo.rollout.paired_generation import Duel
from mindspeed_dpo.workers.setup.builders import Seat
from mindspeed_dpo.workers.setup.sources import stop_ids
from mindspeed_dpo.workers.weight_sync.receiver import reference_weights


class Answering(Protocol):
    """Whatever answers prompts."""

    def rollout(
        self, prompts: Sequence[Tensor], rows: Sequence[int], sample_numbers: Sequence[int], version: int
    ) -> RolloutBatch:
        """See `Generator.rollout`."""


def answering(seat: Seat, role: RoleConfig, policy: RolloutModel, place: Place) -> Answering:
    """What the role's settings ask for; the reference's weights are read here, once.

    Args:
        seat: Of this process.
        role: The rollout's settings.
        policy: Answers with the actor's weights.
        place: Of this process among the rollout's.
    """
    settings, length, stops, seed = role.rollout, role.max_new_tokens, stop_ids(role), seat.run.loop.seed
    if not role.pairing.samples_from_reference:
        return Generator(policy, settings, max_new_tokens=length, stop_ids=stops, seed=seed)
    other = _other(seat, role, policy, place)
    return Duel.between(policy, other, settings, max_new_tokens=length, stop_ids=stops, seed=seed)


def _other(seat: Seat, role: RoleConfig, policy: RolloutModel, place: Place) -> TokenModel:
    ref = seat.run.ref
    assert ref is not None, "online there is always a reference"
    reference = RolloutModel(ref.model, reference_weights(ref, place, seat.device), policy.tp)
    if role.pairing.online_method == NASH_MD:
        return MixedModel(policy, reference, role.pairing.nash_md_mixture)
    return reference
