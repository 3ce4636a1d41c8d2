"""The preference losses: their names, their settings, and which loss uses which setting."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mindspeed_dpo.config.settings.setting import FRACTION, POSITIVE, POSITIVE_FRACTION, at_least, setting, within

LOSSES = (
    "sigmoid", "hinge", "ipo", "sigmoid_norm", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq", "sft", "simpo", "cpo",
    "orpo",
)  # fmt: skip
REFERENCE_FREE_LOSSES = ("simpo", "cpo", "orpo")
LIKELIHOOD_LOSSES = ("sft",)
"""Losses of the chosen response alone; they can be combined with any other loss."""
CROSS_PAIR_LOSSES = ("aot", "aot_unpaired")
"""Losses that compare each pair with other pairs of the step, by log-probability."""
SMOOTHED_LOSSES = ("sigmoid", "robust", "exo_pair", *CROSS_PAIR_LOSSES, "simpo", "cpo")
"""Losses that use dpo_label_smoothing."""
F_DIVERGENCE_LOSSES = ("sigmoid", "hinge", "ipo", "sigmoid_norm", "robust", "exo_pair", "discopop")
"""Losses that use log-ratios only through the f-divergence."""
MARGIN_LOSSES = ("sigmoid", "hinge", "robust", "exo_pair")
"""Losses that take a margin of the data off the difference of log-ratios."""
REWARD_AWARE_LOSSES = ("rpo_bwd_kl", "rpo_fwd_kl", "rpo_sq")
"""Losses whose target is the margin: that of the data, or online the difference of the two scores."""
GROUPED_LOSSES = (*CROSS_PAIR_LOSSES, "sft", "cpo", "orpo")
"""Losses whose value for a pair depends on the other pairs of its group."""
LOSSES_USING: dict[str, Collection[str]] = {
    "dpo_label_smoothing": SMOOTHED_LOSSES,
    "ipo_normalize": ("ipo",),
    "discopop_tau": ("discopop",),
    "gamma_beta_ratio": ("simpo",),
    "cpo_alpha": ("cpo",),
    "loss_group_size": GROUPED_LOSSES,
    "f_divergence_type": F_DIVERGENCE_LOSSES,
    "margin_column": (*MARGIN_LOSSES, *REWARD_AWARE_LOSSES),
    "margin_scale": (*MARGIN_LOSSES, *REWARD_AWARE_LOSSES),
}
"""Settings that only some losses use, and these losses."""

BETA_STYLES = ("constant", "linear", "cosine")
DIVERGENCE_TYPES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The preference loss, one value per pair."""

    dpo_loss_type: tuple[str, ...] = setting(
        ("sigmoid",), help="Preference loss; several losses are summed with loss_weights.", choices=LOSSES
    )
    loss_weights: tuple[float, ...] = setting((), help="Weight of each loss of dpo_loss_type; empty weights each by 1.")
    dpo_beta: float = setting(
        0.1,
        help="Strength of the KL penalty towards the reference; for simpo and cpo the scale of rewards, for orpo the "
        "weight of the odds ratio.",
        unit="1/nat",
        check=POSITIVE,
    )
    dpo_beta_end: float | None = setting(
        None,
        help="Value of dpo_beta at train_iters, approached according to dpo_beta_style.",
        unit="1/nat",
        check=POSITIVE,
    )
    dpo_beta_style: str = setting(
        "constant", help="Schedule of dpo_beta from its initial value to dpo_beta_end.", choices=BETA_STYLES
    )
    beta_dpo_alpha: float = setting(
        0.0,
        help="Strength of the adaptation of beta to the batch's mean reward margin (β-DPO); 0 disables it, the paper "
        "uses 0.6.",
        check=at_least(0),
    )
    beta_dpo_momentum: float = setting(
        0.9,
        help="Decay rate of the moving averages of mean and standard deviation of the margins, which β-DPO compares a "
        "batch with.",
        check=within(0, 1),
    )
    beta_dpo_selection_ratio: float = setting(
        1.0,
        help="Share of the pairs of a step that β-DPO's filter of outliers trains on, drawn by how usual their margins "
        "are; 1 disables it, the paper uses 0.8.",
        check=POSITIVE_FRACTION,
    )
    dpo_label_smoothing: float = setting(
        0.0,
        help=f"Assumed probability that a preference label is flipped; used by {', '.join(SMOOTHED_LOSSES)}.",
        check=within(0, 0.5),
    )
    ipo_normalize: bool = setting(
        derived="true with stage dpo, false online",
        help="Loss ipo divides log-ratios by the response length instead of using their sums.",
    )
    discopop_tau: float = setting(
        0.05, help="Temperature of the modulation between the two terms of loss discopop.", check=POSITIVE
    )
    gamma_beta_ratio: float = setting(
        1.4,
        help="Target margin of loss simpo in units of dpo_beta; gamma in the paper is dpo_beta times this.",
        unit="nat",
        check=at_least(0),
    )
    cpo_alpha: float = setting(1.0, help="Weight of the likelihood term of loss cpo.", check=at_least(0))
    f_divergence_type: str = setting(
        "reverse_kl", help="The f-divergence from the reference that the loss regularizes.", choices=DIVERGENCE_TYPES
    )
    f_alpha_divergence_coef: float = setting(
        0.5, help="Alpha of alpha_divergence; 1 is reverse_kl, 0 is forward_kl.", check=at_least(0)
    )
    ld_alpha: float = setting(
        1.0,
        help="Weight of the tokens by which a response is longer than the other response of its pair (LD-DPO); 1 "
        "weights all tokens equally.",
        check=FRACTION,
    )
    use_weighting: bool = setting(
        False, help="Weight the loss of a pair by the probability of its responses under the policy (WPO)."
    )
    clamp_weighting: bool = setting(
        False, help="Limit the WPO weight to 1, as TRL 0.24 does; TRL 1.16 and the paper do not."
    )
    loss_group_size: int | None = setting(
        None,
        help="Consecutive pairs over which aot sorts and likelihood terms average tokens; null uses all pairs of the "
        "step. TRL uses those of its micro-batch.",
        unit="pairs",
        check=at_least(1),
    )
    margin_column: str | None = setting(
        None,
        help="Data column with a margin for each pair, subtracted from beta times the difference of log-ratios, or in "
        "stage rm from the difference of scores; of the losses rpo_* the difference of the two responses' scores.",
    )
    margin_scale: float = setting(
        1.0,
        help="Factor of margin_column; of the losses rpo_* η, the scale of the scores, also of those of the reward "
        "online.",
        check=POSITIVE,
    )
    weight_column: str | None = setting(None, help="Data column with a weight for the loss of each pair.")
    pref_ftx: float = setting(
        0.0,
        help="Weight of the chosen response's mean negative log-likelihood, added to the loss.",
        check=at_least(0),
    )

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of all terms that the loss is the sum of."""
        return (*self.dpo_loss_type, *(("pref_ftx",) if self.pref_ftx else ()))

    @property
    def display_name(self) -> str:
        """The losses as messages show them: `sigmoid`, or `[sigmoid, sft]`."""
        return self.dpo_loss_type[0] if len(self.dpo_loss_type) == 1 else f"[{', '.join(self.dpo_loss_type)}]"

    @property
    def is_reference_free(self) -> bool:
        """Whether no loss uses a reference."""
        return any(name in REFERENCE_FREE_LOSSES for name in self.dpo_loss_type)

    @property
    def filters_pairs(self) -> bool:
        """Whether β-DPO leaves pairs out."""
        return self.beta_dpo_selection_ratio < 1

    @property
    def follows_margins(self) -> bool:
        """Whether β-DPO adapts beta to the margins of a step, or leaves out pairs by their margins."""
        return self.beta_dpo_alpha > 0 or self.filters_pairs

    @property
    def needs_step_logps(self) -> bool:
        """Whether the gradient needs the log-probabilities of all pairs of the step beforehand."""
        return self.follows_margins or any(name in CROSS_PAIR_LOSSES for name in self.dpo_loss_type)

    @property
    def is_reward_aware(self) -> bool:
        """Whether a loss has the difference of two scores as its target."""
        return any(name in REWARD_AWARE_LOSSES for name in self.dpo_loss_type)

    @property
    def is_grouped(self) -> bool:
        """Whether the loss of a pair depends on the other pairs of the step."""
        return self.needs_step_logps or any(name in GROUPED_LOSSES for name in self.dpo_loss_type)
