"""What must hold where the policy meets another model: XPO and Nash-MD."""

from __future__ import annotations

import math
from collections.abc import Iterator

from mindspeed_dpo.config.legacy.aliases import listing
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.settings.online import DPO, NASH_MD, XPO
from mindspeed_dpo.config.validation.model import divisors, split_sizes
from mindspeed_dpo.config.validation.violation import Violation

XPO_LOSSES = ("sigmoid", "ipo")
# The usual value of what shapes the loss of a pair, which Nash-MD has not.
_PAIR_LOSS = {
    "dpo_loss_type": ("sigmoid",),
    "dpo_label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl",
    "pref_ftx": 0.0,
    "use_weighting": False,
    "beta_dpo_alpha": 0.0,
}


def check_method(run: RunConfig) -> Iterator[Violation]:
    """All of it that the actor's section tells."""
    pairing = run.actor.pairing
    yield from _unread(run)
    if not pairing.samples_from_reference:
        return
    method = pairing.online_method
    count = run.actor.rollout.n_samples_per_prompt
    if count != 2:
        yield Violation(
            ("n_samples_per_prompt", "online_method"),
            f"does not fit online_method={method}: one response is the policy's and one the other model's; make it 2",
        )
    if pairing.pair_selection != "best_worst":
        yield Violation(
            ("pair_selection", "online_method"),
            f"does not fit online_method={method}, which has two responses and so one pair; make it best_worst",
        )
    yield from _xpo(run) if method == XPO else _nash_md(run)


def _unread(run: RunConfig) -> Iterator[Violation]:
    pairing = run.actor.pairing
    for key, usual, method in (("xpo_alpha", 1e-5, XPO), ("nash_md_mixture", 0.5, NASH_MD)):
        if getattr(pairing, key) != usual and pairing.online_method != method:
            yield Violation(
                (key, "online_method"),
                f"has no effect with online_method={pairing.online_method}; remove it or choose {method}",
            )


def _xpo(run: RunConfig) -> Iterator[Violation]:
    loss = run.actor.loss
    if len(loss.dpo_loss_type) > 1 or loss.dpo_loss_type[0] not in XPO_LOSSES:
        yield Violation(
            ("dpo_loss_type", "online_method"),
            f"does not fit online_method=xpo, which adds its bonus to one loss; choose {listing(XPO_LOSSES)}",
        )


def _nash_md(run: RunConfig) -> Iterator[Violation]:
    actor = run.actor
    for key, usual in _PAIR_LOSS.items():
        if getattr(actor.loss, key) != usual:
            yield Violation(
                (key, "online_method"),
                "shapes the loss of a pair, and online_method=nash_md has none: it learns from the policy's response "
                "alone; remove it",
            )
    if actor.pairing.min_reward_margin:
        yield Violation(
            ("min_reward_margin", "online_method"),
            "has no effect with online_method=nash_md, which learns from close scores too; remove it",
        )
    if actor.pairing.ppo_epochs > 1:
        yield Violation(
            ("ppo_epochs", "online_method"),
            "does not fit online_method=nash_md: its gradient is that of responses which the policy would give now; "
            "make it 1",
        )
    if actor.rollout.rollout_staleness:
        yield Violation(
            ("rollout_staleness", "online_method"),
            "does not fit online_method=nash_md: its gradient is that of responses which the policy would give now; "
            "make it 0",
        )
    if actor.reward_source == "judge":
        yield Violation(
            ("judge", "online_method"),
            "does not fit online_method=nash_md: a judge says who is better, and the difference of two scores is "
            "needed; choose reward_functions or a reward model",
        )


def check_met(run: RunConfig, ref: RoleConfig) -> Iterator[Violation]:
    """The reference can be had a second time, in the rollout's layout."""
    method = run.actor.pairing.online_method
    if method == DPO:
        return
    for key in ("random_init", "load_checkpoint_loosely"):
        if getattr(ref.checkpoint, key):
            yield Violation(
                (key, "online_method"),
                f"does not fit online_method={method}: the reference is read a second time, to answer prompts, and "
                "what is drawn at random would differ; give it whole weights by load",
            )
    tp, sizes = run.actor.rollout.inference_tensor_model_parallel_size, split_sizes(ref.model)
    uneven = [name for name, size in sizes.items() if size % tp]
    if uneven and ref.model != run.actor.model:
        yield Violation(
            (*uneven, "inference_tensor_model_parallel_size"),
            f"is not divided by inference_tensor_model_parallel_size={tp}, and with online_method={method} the "
            f"reference answers too; choose {listing(divisors(math.gcd(*sizes.values())))} for that",
        )
