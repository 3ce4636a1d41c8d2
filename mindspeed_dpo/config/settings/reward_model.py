"""Training of a reward model: the parts of its loss that are not those of a policy."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import at_least, setting, within

PREFERENCE_TERM, CENTER_TERM = "ranking", "center"
"""Names of the terms of the loss in the metrics."""


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """The loss of a reward model (stage rm), one value per row of ranked responses."""

    rm_label_smoothing: float = setting(
        0.0,
        help="Assumed probability that a preference label is flipped, in the loss of a reward model.",
        check=within(0, 0.5),
    )
    center_rewards_coefficient: float = setting(
        0.0,
        help="Weight of the squared sum of the scores of a pair, added to the loss so that scores are centred at 0 "
        "(arXiv:2312.09244); TRL suggests 0.01.",
        check=at_least(0),
    )

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of all terms that the loss is the sum of."""
        return (PREFERENCE_TERM, CENTER_TERM) if self.center_rewards_coefficient else (PREFERENCE_TERM,)
