"""Rules about the loss: every setting has an effect, and losses can be combined."""

from __future__ import annotations

from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.config.settings.loss import (
    CROSS_PAIR_LOSSES,
    F_DIVERGENCE_LOSSES,
    GROUPED_LOSSES,
    LIKELIHOOD_LOSSES,
    LOSSES_USING,
    MARGIN_LOSSES,
    REFERENCE_FREE_LOSSES,
    REWARD_AWARE_LOSSES,
    LossConfig,
)
from mindspeed_dpo.config.settings.setting import group_settings


def check_loss(run: RunConfig) -> Iterator[Violation]:
    """Check every rule about the loss of the actor."""
    loss = run.actor.loss
    yield from _check_terms(loss)
    yield from _check_unused(loss, run.is_online)
    yield from _check_beta(loss)
    yield from _check_combination(loss)
    yield from _check_margins(run, loss)
    yield from _check_stage(run, loss)


def _check_terms(loss: LossConfig) -> Iterator[Violation]:
    types, weights = loss.dpo_loss_type, loss.loss_weights
    if len(set(types)) < len(types):
        yield Violation(("dpo_loss_type",), "names a loss twice; name it once and set its weight in loss_weights")
    if weights and len(weights) != len(types):
        yield Violation(
            ("loss_weights", "dpo_loss_type"),
            f"must have a weight for each of the {len(types)} losses of dpo_loss_type={loss.display_name}, or none",
        )
    if weights and (min(weights) < 0 or not any(weights)):
        yield Violation(("loss_weights",), "must not be negative, and at least one must be above 0")
    if "exo_pair" in types and not loss.dpo_label_smoothing:
        yield Violation(("dpo_loss_type", "dpo_label_smoothing"), "requires dpo_label_smoothing above 0, e.g. 0.001")


def _check_unused(loss: LossConfig, online: bool) -> Iterator[Violation]:
    """Check that settings other than their default are used by one of the losses."""
    defaults = {key: item.default for key, item in group_settings(LossConfig).items()} | {"ipo_normalize": not online}
    for key, losses in LOSSES_USING.items():
        if getattr(loss, key) != defaults[key] and not set(losses) & set(loss.dpo_loss_type):
            yield Violation(
                (key, "dpo_loss_type"),
                f"has no effect with dpo_loss_type={loss.display_name}; remove it or choose {join_words(losses)}",
            )
    alpha = "f_alpha_divergence_coef"
    if getattr(loss, alpha) != defaults[alpha] and loss.f_divergence_type != "alpha_divergence":
        yield Violation(
            (alpha, "f_divergence_type"),
            f"has no effect with f_divergence_type={loss.f_divergence_type}; remove it or choose alpha_divergence",
        )
    if loss.clamp_weighting and not loss.use_weighting:
        yield Violation(("clamp_weighting", "use_weighting"), "has no effect without use_weighting=true")
    if loss.beta_dpo_momentum != defaults["beta_dpo_momentum"] and not loss.follows_margins:
        yield Violation(
            ("beta_dpo_momentum", "beta_dpo_alpha", "beta_dpo_selection_ratio"),
            "has no effect with beta_dpo_alpha=0 and beta_dpo_selection_ratio=1",
        )


def _check_beta(loss: LossConfig) -> Iterator[Violation]:
    if loss.dpo_beta_end is not None and loss.dpo_beta_style == "constant":
        yield Violation(
            ("dpo_beta_end", "dpo_beta_style"), "has no effect with dpo_beta_style=constant; choose linear or cosine"
        )
    if loss.dpo_beta_end is None and loss.dpo_beta_style != "constant":
        yield Violation(("dpo_beta_style", "dpo_beta_end"), "requires dpo_beta_end, the final value of dpo_beta")


def _check_combination(loss: LossConfig) -> Iterator[Violation]:
    """Check that the losses can be summed, and that common settings apply to each of them."""
    types = loss.dpo_loss_type
    free = [name for name in types if name in REFERENCE_FREE_LOSSES]
    with_reference = [name for name in types if name not in (*REFERENCE_FREE_LOSSES, *LIKELIHOOD_LOSSES)]
    if free and (with_reference or len(free) > 1):
        other = (with_reference or free[1:])[0]
        yield Violation(
            ("dpo_loss_type",),
            f"combines {free[0]}, which has no reference and its own scale of rewards, with {other}; keep one of them",
        )
    unaffected = [name for name in types if name not in (*F_DIVERGENCE_LOSSES, *LIKELIHOOD_LOSSES)]
    if loss.f_divergence_type != "reverse_kl" and unaffected and set(F_DIVERGENCE_LOSSES) & set(types):
        yield Violation(
            ("f_divergence_type", "dpo_loss_type"),
            f"does not apply to {unaffected[0]} of dpo_loss_type={loss.display_name}, which uses log-ratios directly",
        )
    cross_pair = [name for name in types if name in CROSS_PAIR_LOSSES]
    if loss.use_weighting and cross_pair:
        yield Violation(
            ("use_weighting", "dpo_loss_type"),
            f"weights single pairs, but {cross_pair[0]} compares each pair with another; choose another loss",
        )
    if loss.use_weighting and set(types) <= set(LIKELIHOOD_LOSSES):
        yield Violation(("use_weighting", "dpo_loss_type"), f"has no effect with dpo_loss_type={loss.display_name}")
    for key, what in (("beta_dpo_alpha", "adapts beta to"), ("beta_dpo_selection_ratio", "selects pairs by")):
        if getattr(loss, key) != getattr(LossConfig(), key) and (free or set(types) <= set(LIKELIHOOD_LOSSES)):
            yield Violation(
                (key, "dpo_loss_type"),
                f"{what} the margin over the reference, but dpo_loss_type={loss.display_name} has no reference",
            )
    grouped = [name for name in types if name in GROUPED_LOSSES]
    if loss.filters_pairs and grouped and with_reference:
        yield Violation(
            ("beta_dpo_selection_ratio", "dpo_loss_type"),
            f"leaves out single pairs, but {grouped[0]} compares or averages over all of them; remove it or choose "
            "another loss",
        )


def _check_margins(run: RunConfig, loss: LossConfig) -> Iterator[Violation]:
    """Check that margins have one meaning, and that losses with a target have one."""
    types = loss.dpo_loss_type
    aware, offset = ([name for name in types if name in group] for group in (REWARD_AWARE_LOSSES, MARGIN_LOSSES))
    if aware and offset:
        yield Violation(
            ("dpo_loss_type",),
            f"combines {aware[0]}, whose target is the margin, with {offset[0]}, which takes it off; keep one of them",
        )
    elif aware and not run.is_online and not loss.margin_column:
        yield Violation(
            ("dpo_loss_type", "margin_column"),
            "requires margin_column, the difference of the scores of both responses; pairs that are preprocessed with "
            "scores have it as margin",
        )
    if aware and run.is_online and run.actor.reward.gives_preferences:
        yield Violation(
            ("dpo_loss_type", "judge", "judge_mode"),
            "requires the difference of two scores, but a judge gives preferences; choose reward_functions, a reward "
            "model or a judge_model with judge_mode=score",
        )
    is_scaled = loss.margin_scale != LossConfig().margin_scale
    if is_scaled and run.is_online and offset:
        yield Violation(
            ("margin_scale", "dpo_loss_type"),
            f"has no effect online with dpo_loss_type={loss.display_name}; remove it or choose "
            f"{join_words(REWARD_AWARE_LOSSES)}",
        )
    elif is_scaled and offset and not loss.margin_column:
        yield Violation(("margin_scale", "margin_column"), "has no effect without margin_column")


def _check_stage(run: RunConfig, loss: LossConfig) -> Iterator[Violation]:
    """Check that the loss fits the stage, and that loss groups divide its step."""
    if run.is_online:
        for key in ("margin_column", "weight_column"):
            if getattr(loss, key):
                yield Violation((key, "stage"), "requires pairs from a dataset; online, pairs are made from responses")
        if loss.ld_alpha < 1:
            yield Violation(
                ("ld_alpha", "stage"),
                "requires stage dpo: online, the reference scores responses before they are paired",
            )
    elif loss.is_reference_free:
        if run.actor.reference.ref_model:
            yield Violation(
                ("ref_model", "dpo_loss_type"),
                f"names a reference, but dpo_loss_type={loss.display_name} has none; remove it",
            )
        if run.actor.reference.reference == "live":
            yield Violation(
                ("reference", "dpo_loss_type"),
                f"has no effect with dpo_loss_type={loss.display_name}, which has no reference; remove it",
            )
    group = loss.loss_group_size
    step = run.actor.pairing.ppo_mini_batch_size if run.is_online else run.actor.batch.global_batch_size
    if group and step % group:
        yield Violation(
            ("loss_group_size", "global_batch_size", "micro_batch_size"), f"does not divide the {step} pairs of a step"
        )
