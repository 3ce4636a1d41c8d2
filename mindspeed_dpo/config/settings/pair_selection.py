"""Online DPO: the method, and the selection of pairs among scored responses."""

from __future__ import annotations

from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import FRACTION, at_least, setting

DPO, XPO, NASH_MD = "dpo", "xpo", "nash_md"


@dataclass(frozen=True, kw_only=True)
class PairingConfig:
    """Selection of pairs from the responses, and optimizer steps per iteration."""

    online_method: str = setting(
        DPO,
        help="Method: dpo compares responses of the policy; xpo compares one response of the policy with one of the "
        "reference and adds an exploration bonus; nash_md compares one response of the policy with one of a mixture of "
        "policy and reference and trains by policy gradient.",
        choices=(DPO, XPO, NASH_MD),
    )
    xpo_alpha: float = setting(
        1e-5,
        help="Weight of XPO's exploration bonus, the log-probability of the reference's response.",
        unit="1/nat",
        check=at_least(0),
    )
    nash_md_mixture: float = setting(
        0.5, help="Weight of the reference's logits in the mixture policy of Nash-MD.", check=FRACTION
    )
    pair_selection: str = setting(
        "best_worst",
        help="Pairs made from the responses to a prompt: best_worst takes the highest and the lowest score, random "
        "takes two at random, all takes every combination of two.",
        choices=("best_worst", "random", "all"),
    )
    min_reward_margin: float = setting(
        0.0,
        help="Minimum difference of the two scores of a pair; pairs with equal scores are always discarded.",
        check=at_least(0),
    )
    missing_eos_penalty: float = setting(
        0.0, help="Penalty subtracted from the score of a response without an end token.", check=at_least(0)
    )
    ppo_mini_batch_size: int = setting(
        derived="global_batch_size", help="Pairs per optimizer step.", unit="pairs", check=at_least(1)
    )
    ppo_epochs: int = setting(1, help="Passes over the pairs of one iteration.", unit="epochs", check=at_least(1))
    shuffle_minibatch: bool = setting(False, help="Shuffle the pairs before each pass.")

    @property
    def samples_from_reference(self) -> bool:
        """Whether one of two responses comes from another model than the policy, which is built on the reference."""
        return self.online_method != DPO
