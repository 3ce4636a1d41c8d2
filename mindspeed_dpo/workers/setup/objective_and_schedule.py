"""Builds the objective and the schedules of a role from its settings; the driver does too, to check them at start."""

from __future__ import annotations

from mindspeed_dpo.algorithms.lr_and_beta_schedules import LearningRateSettings, beta_at
from mindspeed_dpo.algorithms.nash_md import NashObjective
from mindspeed_dpo.algorithms.objective import PreferenceObjective
from mindspeed_dpo.config.run import RoleConfig
from mindspeed_dpo.config.settings.pair_selection import NASH_MD, XPO
from mindspeed_dpo.workers.batching.minibatches import steps_per_pass


def objective_of(role: RoleConfig) -> PreferenceObjective | NashObjective:
    """Return a role's objective, with the initial beta."""
    if role.pairing.online_method == NASH_MD:
        return NashObjective(role.loss.dpo_beta)
    alpha = role.pairing.xpo_alpha if role.pairing.online_method == XPO else None
    return PreferenceObjective(role.loss, role.loss.dpo_beta, alpha)


def beta_of(role: RoleConfig, iteration: int, train_iters: int) -> float:
    """Return beta of an iteration, the strength of the regularisation towards the reference, per nat."""
    loss = role.loss
    return beta_at(iteration, train_iters, start=loss.dpo_beta, end=loss.dpo_beta_end, style=loss.dpo_beta_style)


def steps_per_iteration(role: RoleConfig) -> int:
    """Return the number of optimizer steps of an iteration; 1 offline."""
    return role.pairing.ppo_epochs * steps_per_pass(role)


def learning_rate_of(role: RoleConfig, train_iters: int) -> LearningRateSettings:
    """Return the settings of a role's learning-rate schedule.

    Raises:
        ValueError: They contradict each other or are out of range.
    """
    optimizer = role.optimizer
    return LearningRateSettings.for_run(
        style=optimizer.lr_decay_style,
        lr=optimizer.lr,
        min_lr=optimizer.min_lr,
        train_iters=train_iters,
        global_batch_size=role.batch.global_batch_size,
        lr_decay_iters=optimizer.lr_decay_iters,
        lr_warmup_fraction=optimizer.lr_warmup_fraction,
        lr_warmup_iters=optimizer.lr_warmup_iters,
        steps_per_iteration=steps_per_iteration(role),
    )
