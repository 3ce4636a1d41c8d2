"""Which preference losses there are, which settings each of them reads, and the settings themselves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from mindspeed_dpo.config.settings.field import POSITIVE, SHARE, at_least, setting, within

LOSSES = (
    "sigmoid", "hinge", "ipo", "sigmoid_norm", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot",
    "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "simpo", "cpo", "orpo",
)  # fmt: skip
REFERENCE_FREE_LOSSES = ("simpo", "cpo", "orpo")
LIKELIHOOD_LOSSES = ("sft",)
"""These read the chosen response alone and may stand beside any other loss."""
MATCHED_LOSSES = ("aot", "aot_unpaired")
"""These compare each pair with others of the step, by log-probability."""
SMOOTHED_LOSSES = ("sigmoid", "robust", "exo_pair", *MATCHED_LOSSES, "simpo", "cpo")
DIVERGING_LOSSES = ("sigmoid", "hinge", "ipo", "sigmoid_norm", "robust", "exo_pair", "discopop")
"""These read log-ratios only through the f-divergence."""
MARGIN_LOSSES = ("sigmoid", "hinge", "robust", "exo_pair")
GROUPED_LOSSES = (*MATCHED_LOSSES, "sft", "cpo", "orpo")
USED_BY: dict[str, Collection[str]] = {
    "dpo_label_smoothing": SMOOTHED_LOSSES,
    "ipo_normalize": ("ipo",),
    "discopop_tau": ("discopop",),
    "gamma_beta_ratio": ("simpo",),
    "cpo_alpha": ("cpo",),
    "loss_group_size": GROUPED_LOSSES,
    "f_divergence_type": DIVERGING_LOSSES,
    "margin_column": MARGIN_LOSSES,
}
"""Settings that only some losses read, and these."""

BETA_STYLES = ("constant", "linear", "cosine")
DIVERGENCE_TYPES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The preference loss, a value per pair."""

    dpo_loss_type: tuple[str, ...] = setting(
        ("sigmoid",), help="Which preference loss; of several the weighted sum.", choices=LOSSES
    )
    loss_weights: tuple[float, ...] = setting((), help="Factor of each loss of dpo_loss_type; empty: 1 each.")
    dpo_beta: float = setting(
        0.1,
        help="Strength of the pull towards the reference; for simpo and cpo the scale of rewards, for orpo the weight "
        "of the odds ratio.",
        unit="1/nat",
        check=POSITIVE,
    )
    dpo_beta_end: float | None = setting(
        None, help="Where dpo_beta ends after train_iters, on the way of dpo_beta_style.", unit="1/nat", check=POSITIVE
    )
    dpo_beta_style: str = setting(
        "constant", help="How dpo_beta goes to dpo_beta_end over the run.", choices=BETA_STYLES
    )
    beta_dpo_alpha: float = setting(
        0.0,
        help="How strongly beta follows the batch's mean reward margin (β-DPO); 0 does not, the paper uses 0.6.",
        check=at_least(0),
    )
    beta_dpo_momentum: float = setting(
        0.9, help="Share of the past in the usual margin that β-DPO compares a batch with.", check=within(0, 1)
    )
    dpo_label_smoothing: float = setting(
        0.0,
        help=f"Assumed probability that a preference label is flipped; {', '.join(SMOOTHED_LOSSES)}.",
        check=within(0, 0.5),
    )
    ipo_normalize: bool = setting(
        derived="true with stage dpo, false online",
        help="Loss ipo divides log-ratios by the response length; otherwise it takes their sums.",
    )
    discopop_tau: float = setting(0.05, help="Width of the blend of loss discopop.", check=POSITIVE)
    gamma_beta_ratio: float = setting(
        1.4,
        help="Margin that loss simpo wants; its paper's gamma is dpo_beta times this.",
        unit="nat",
        check=at_least(0),
    )
    cpo_alpha: float = setting(1.0, help="Weight of the likelihood term of loss cpo.", check=at_least(0))
    f_divergence_type: str = setting(
        "reverse_kl", help="Divergence from the reference that the loss bounds.", choices=DIVERGENCE_TYPES
    )
    f_alpha_divergence_coef: float = setting(
        0.5, help="Alpha of alpha_divergence; 1 is reverse_kl, 0 forward_kl.", check=at_least(0)
    )
    ld_alpha: float = setting(
        1.0,
        help="Weight of the tokens by which a response is longer than the other of its pair (LD-DPO); 1 is DPO.",
        check=SHARE,
    )
    use_weighting: bool = setting(
        False, help="Multiply a pair's loss by how much the policy would have written the pair itself (WPO)."
    )
    clamp_weighting: bool = setting(
        False, help="Keep that factor at 1 or less, as TRL 0.24 does; TRL 1.16 and the paper do not."
    )
    loss_group_size: int | None = setting(
        None,
        help="Pairs, following each other, over which aot sorts and likelihoods average tokens; null: the whole step. "
        "TRL does so within its micro-batch.",
        unit="pairs",
        check=at_least(1),
    )
    margin_column: str | None = setting(
        None, help="Column of the data with each pair's margin, taken off beta times its difference of log-ratios."
    )
    weight_column: str | None = setting(None, help="Column of the data with a factor on each pair's loss.")
    pref_ftx: float = setting(
        0.0, help="Weight of the chosen response's mean negative log-probability, added to the loss.", check=at_least(0)
    )

    @property
    def terms(self) -> tuple[str, ...]:
        """Everything that the loss is a sum of."""
        return (*self.dpo_loss_type, *(("pref_ftx",) if self.pref_ftx else ()))

    @property
    def named(self) -> str:
        """The losses as a sentence has them."""
        return self.dpo_loss_type[0] if len(self.dpo_loss_type) == 1 else f"[{', '.join(self.dpo_loss_type)}]"

    @property
    def is_reference_free(self) -> bool:
        """Whether no loss compares with a reference."""
        return any(name in REFERENCE_FREE_LOSSES for name in self.dpo_loss_type)

    @property
    def needs_step_logps(self) -> bool:
        """Whether log-probabilities of the whole step must be known before its gradient."""
        return self.beta_dpo_alpha > 0 or any(name in MATCHED_LOSSES for name in self.dpo_loss_type)

    @property
    def is_grouped(self) -> bool:
        """Whether a pair's loss depends on the other pairs of the step."""
        return self.needs_step_logps or any(name in GROUPED_LOSSES for name in self.dpo_loss_type)
