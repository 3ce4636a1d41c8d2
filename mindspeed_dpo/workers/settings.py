"""From a role's settings to the objects of the algorithm; also how the driver checks them before anything starts."""

from __future__ import annotations

from mindspeed_dpo.algorithms.objective import PreferenceObjective
from mindspeed_dpo.algorithms.schedule import LearningRateSettings
from mindspeed_dpo.config.run import RoleConfig


def objective_of(role: RoleConfig) -> PreferenceObjective:
    """The role's objective."""
    loss = role.loss
    return PreferenceObjective(loss.dpo_loss_type, loss.dpo_beta, loss.dpo_label_smoothing, loss.pref_ftx)


def learning_rate_of(role: RoleConfig, train_iters: int) -> LearningRateSettings:
    """The role's learning-rate schedule."""
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
    )
