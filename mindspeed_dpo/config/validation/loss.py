"""What must hold between the settings of the loss: each has an effect, and none contradicts another."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.legacy.aliases import listing
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.field import declared
from mindspeed_dpo.config.settings.loss import (
    DIVERGING_LOSSES,
    LIKELIHOOD_LOSSES,
    MATCHED_LOSSES,
    REFERENCE_FREE_LOSSES,
    USED_BY,
    LossConfig,
)
from mindspeed_dpo.config.validation.violation import Violation


def check_loss(run: RunConfig) -> Iterator[Violation]:
    """All of it, for the role that learns."""
    loss = run.actor.loss
    yield from _terms(loss)
    yield from _unread(loss, run.is_online)
    yield from _beta(loss)
    yield from _mixtures(loss)
    yield from _of_stage(run, loss)


def _terms(loss: LossConfig) -> Iterator[Violation]:
    types, weights = loss.dpo_loss_type, loss.loss_weights
    if len(set(types)) < len(types):
        yield Violation(("dpo_loss_type",), "names a loss twice; give it once, with its weight in loss_weights")
    if weights and len(weights) != len(types):
        yield Violation(
            ("loss_weights", "dpo_loss_type"),
            f"has {len(weights)} of {len(types)} weights: give each loss of dpo_loss_type={loss.named} one, or none",
        )
    if weights and (min(weights) < 0 or not any(weights)):
        yield Violation(("loss_weights",), "must not be negative, and one must be above 0")
    if "exo_pair" in types and not loss.dpo_label_smoothing:
        yield Violation(("dpo_loss_type", "dpo_label_smoothing"), "needs dpo_label_smoothing above 0, e.g. 0.001")


def _unread(loss: LossConfig, online: bool) -> Iterator[Violation]:
    """Settings that none of the losses reads."""
    usual = {key: item.default for key, item in declared(LossConfig).items()} | {"ipo_normalize": not online}
    for key, losses in USED_BY.items():
        if getattr(loss, key) != usual[key] and not set(losses) & set(loss.dpo_loss_type):
            yield Violation(
                (key, "dpo_loss_type"),
                f"has no effect with dpo_loss_type={loss.named}; remove it or choose {listing(losses)}",
            )
    if loss.f_alpha_divergence_coef != 0.5 and loss.f_divergence_type != "alpha_divergence":
        yield Violation(
            ("f_alpha_divergence_coef", "f_divergence_type"),
            f"has no effect with f_divergence_type={loss.f_divergence_type}; remove it or choose alpha_divergence",
        )
    if loss.clamp_weighting and not loss.use_weighting:
        yield Violation(("clamp_weighting", "use_weighting"), "has no effect without use_weighting=true")
    if loss.beta_dpo_momentum != 0.9 and not loss.beta_dpo_alpha:
        yield Violation(("beta_dpo_momentum", "beta_dpo_alpha"), "has no effect with beta_dpo_alpha=0")


def _beta(loss: LossConfig) -> Iterator[Violation]:
    if loss.dpo_beta_end is not None and loss.dpo_beta_style == "constant":
        yield Violation(
            ("dpo_beta_end", "dpo_beta_style"), "has no effect with dpo_beta_style=constant; choose linear or cosine"
        )
    if loss.dpo_beta_end is None and loss.dpo_beta_style != "constant":
        yield Violation(("dpo_beta_style", "dpo_beta_end"), "needs dpo_beta_end, the value that dpo_beta goes to")


def _mixtures(loss: LossConfig) -> Iterator[Violation]:
    types = loss.dpo_loss_type
    free = [name for name in types if name in REFERENCE_FREE_LOSSES]
    compared = [name for name in types if name not in (*REFERENCE_FREE_LOSSES, *LIKELIHOOD_LOSSES)]
    if free and (compared or len(free) > 1):
        other = (compared or free[1:])[0]
        yield Violation(
            ("dpo_loss_type",),
            f"mixes {free[0]}, which has no reference and its own scale of rewards, with {other}; keep one of them",
        )
    fixed = [name for name in types if name not in (*DIVERGING_LOSSES, *LIKELIHOOD_LOSSES)]
    if loss.f_divergence_type != "reverse_kl" and fixed and set(DIVERGING_LOSSES) & set(types):
        yield Violation(
            ("f_divergence_type", "dpo_loss_type"),
            f"does not reach {fixed[0]} of dpo_loss_type={loss.named}, which takes log-ratios as they are",
        )
    matched = [name for name in types if name in MATCHED_LOSSES]
    if loss.use_weighting and matched:
        yield Violation(
            ("use_weighting", "dpo_loss_type"),
            f"weighs pairs, but {matched[0]} compares each pair with another; choose another loss",
        )
    if loss.use_weighting and set(types) <= set(LIKELIHOOD_LOSSES):
        yield Violation(("use_weighting", "dpo_loss_type"), f"has no effect with dpo_loss_type={loss.named}")
    if loss.beta_dpo_alpha and (free or set(types) <= set(LIKELIHOOD_LOSSES)):
        yield Violation(
            ("beta_dpo_alpha", "dpo_loss_type"),
            f"follows the margin against the reference, which dpo_loss_type={loss.named} has not",
        )


def _of_stage(run: RunConfig, loss: LossConfig) -> Iterator[Violation]:
    if run.is_online:
        for key in ("margin_column", "weight_column"):
            if getattr(loss, key):
                yield Violation((key, "stage"), "belongs to given pairs; online the policy makes its own")
        if loss.ld_alpha < 1:
            yield Violation(
                ("ld_alpha", "stage"), "needs to know the pair before the reference is asked; only stage dpo does"
            )
    elif loss.is_reference_free:
        asked = run.actor.reference.ref_model
        if asked:
            yield Violation(
                ("ref_model", "dpo_loss_type"),
                f"names a reference, but dpo_loss_type={loss.named} has none; remove it",
            )
        if run.actor.reference.reference == "live":
            yield Violation(
                ("reference", "dpo_loss_type"),
                f"has no effect with dpo_loss_type={loss.named}, which has no reference; remove it",
            )
    group = loss.loss_group_size
    step = run.actor.pairing.ppo_mini_batch_size if run.is_online else run.actor.batch.global_batch_size
    if group and step % group:
        yield Violation(
            ("loss_group_size", "global_batch_size", "micro_batch_size"), f"does not divide the {step} pairs of a step"
        )
