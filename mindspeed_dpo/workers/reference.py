"""The frozen model that the policy is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindspeed_dpo.batches import PreferenceBatch
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.engine.training import ScoringEngine
from mindspeed_dpo.workers.building import Seat, build_feed, build_model, offload_from
from mindspeed_dpo.workers.feed import PairSource
from mindspeed_dpo.workers.roles import Logps, Pairs
from mindspeed_dpo.workers.scoring import score_pairs, score_tokens


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

    def token_log_probs(self, answers: PreferenceBatch) -> NDArray[np.float32] | None:
        """See `score_tokens`."""
        with self.engine.at_work():
            return score_tokens(self.engine, self.feed, answers)
