"""Rules about XPO and Nash-MD, where one of two responses is sampled from another model than the policy."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.issues import Violation
from mindspeed_dpo.config.name_suggestions import join_words
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.loss import LossConfig
from mindspeed_dpo.config.settings.pair_selection import DPO, NASH_MD, XPO, PairingConfig
from mindspeed_dpo.config.validation.parallel_layout import divisors, tensor_parallel_sizes

XPO_LOSSES = ("sigmoid", "ipo")
_PAIR_LOSS_KEYS = (
    *("dpo_loss_type", "dpo_label_smoothing", "f_divergence_type", "pref_ftx", "use_weighting", "beta_dpo_alpha"),
    "beta_dpo_selection_ratio",
)


def check_online_method(run: RunConfig) -> Iterator[Violation]:
    """Check every rule about the settings of the actor."""
    pairing = run.actor.pairing
    for key, method in (("xpo_alpha", XPO), ("nash_md_mixture", NASH_MD)):
        if getattr(pairing, key) != getattr(PairingConfig(), key) and pairing.online_method != method:
            yield Violation(
                (key, "online_method"),
                f"has no effect with online_method={pairing.online_method}; remove it or choose {method}",
            )
    if not pairing.samples_from_reference:
        return
    if run.actor.rollout.n_samples_per_prompt != 2:
        yield Violation(
            ("n_samples_per_prompt", "online_method"),
            f"cannot be combined with online_method={pairing.online_method}, which samples one response from the "
            "policy and one from the other model; set it to 2",
        )
    if pairing.pair_selection != "best_worst":
        yield Violation(
            ("pair_selection", "online_method"),
            f"cannot be combined with online_method={pairing.online_method}, which has one pair per prompt; set it to "
            "best_worst",
        )
    yield from _check_xpo(run) if pairing.online_method == XPO else _check_nash_md(run)


def _check_xpo(run: RunConfig) -> Iterator[Violation]:
    loss = run.actor.loss
    if len(loss.dpo_loss_type) > 1 or loss.dpo_loss_type[0] not in XPO_LOSSES:
        yield Violation(
            ("dpo_loss_type", "online_method"),
            f"cannot be combined with online_method=xpo, which adds its bonus to a single loss; choose "
            f"{join_words(XPO_LOSSES)}",
        )
    if loss.filters_pairs:
        yield Violation(
            ("beta_dpo_selection_ratio", "online_method"),
            "cannot be combined with online_method=xpo, whose bonus is a mean over all prompts; remove it",
        )


def _check_nash_md(run: RunConfig) -> Iterator[Violation]:
    actor = run.actor
    for key in _PAIR_LOSS_KEYS:
        if getattr(actor.loss, key) != getattr(LossConfig(), key):
            yield Violation(
                (key, "online_method"),
                "is a setting of a pair loss, but online_method=nash_md trains on the policy's response alone; remove "
                "it",
            )
    if actor.pairing.min_reward_margin:
        yield Violation(
            ("min_reward_margin", "online_method"),
            "has no effect with online_method=nash_md, which also trains on close scores; remove it",
        )
    reason = "cannot be combined with online_method=nash_md, whose policy gradient requires responses of the current"
    if actor.pairing.ppo_epochs > 1:
        yield Violation(("ppo_epochs", "online_method"), f"{reason} policy; set it to 1")
    if actor.rollout.rollout_staleness:
        yield Violation(("rollout_staleness", "online_method"), f"{reason} policy; set it to 0")
    if actor.reward.gives_preferences:
        yield Violation(
            ("judge" if actor.reward.judge else "judge_mode", "online_method"),
            "cannot be combined with online_method=nash_md, which requires the difference of two scores; choose "
            "reward_functions, a reward model or a judge_model with judge_mode=score",
        )


def check_reference_rollout(run: RunConfig, ref: RoleConfig) -> Iterator[Violation]:
    """Check that the rollout can load the reference in its own layout, where it generates with it."""
    cause = _cause_of_reference_rollout(run)
    if cause is None:
        return
    key, because = cause
    for name in ("random_init", "load_checkpoint_loosely"):
        if getattr(ref.checkpoint, name):
            yield Violation(
                (name, key),
                f"cannot be combined with {because}: the rollout loads a second copy of the reference, in which random "
                "weights would differ; set load to complete weights",
            )
    ep, count = run.actor.rollout.inference_expert_model_parallel_size, ref.model.num_experts
    if count is not None and count % ep:
        yield Violation(
            ("num_experts", "inference_expert_model_parallel_size"),
            f"is not divisible by inference_expert_model_parallel_size={ep}, and with {because} the rollout also "
            "generates with the reference; choose a divisor of both numbers of experts for that size",
        )
    tp, sizes = run.actor.rollout.inference_tensor_model_parallel_size, tensor_parallel_sizes(ref.model)
    indivisible = [name for name, size in sizes.items() if size % tp]
    if indivisible and ref.model != run.actor.model:
        yield Violation(
            (*indivisible, "inference_tensor_model_parallel_size"),
            f"is not divisible by inference_tensor_model_parallel_size={tp}, and with {because} the rollout also "
            f"generates with the reference; choose {join_words(divisors(math.gcd(*sizes.values())))} for that size",
        )


def _cause_of_reference_rollout(run: RunConfig) -> tuple[str, str] | None:
    """Return the key for which the rollout generates with the reference's own weights, as messages show it; or None."""
    method = run.actor.pairing.online_method
    if method != DPO:
        return "online_method", f"online_method={method}"
    if run.loop.evaluates and not run.starts_as_reference:
        return "eval_interval", f"eval_interval={run.loop.eval_interval} and a reference that the policy differs from"
    return None
