"""All rules between the settings of a run, applied role by role.

Nothing is opened here: `paths_and_libraries` checks the file system.
"""

from __future__ import annotations

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.config.validation.batch_schedule_recompute import (
    check_batch,
    check_micro_batch,
    check_recompute,
    check_schedule,
)
from mindspeed_dpo.config.validation.evaluation import check_evaluation
from mindspeed_dpo.config.validation.expert_model import check_expert_split, check_expert_training, check_experts
from mindspeed_dpo.config.validation.initial_weights_and_reference import (
    check_adapters,
    check_initial_weights,
    check_reference,
    check_sync,
)
from mindspeed_dpo.config.validation.loss import check_loss
from mindspeed_dpo.config.validation.model import check_model
from mindspeed_dpo.config.validation.npu_limits import check_npu_limits
from mindspeed_dpo.config.validation.online import check_online
from mindspeed_dpo.config.validation.parallel_layout import check_pool, check_shared_layout, check_split


def check_run(run: RunConfig, issues: Issues) -> None:
    """Apply every rule to every role that has settings of its own."""
    for role in (run.actor, run.ref, run.reward):
        if role is not None:
            _check_role(role, run, issues)
    rules = (
        *(check_batch, check_schedule, check_loss, check_recompute, check_evaluation),
        *(check_adapters, check_expert_training, check_sync, check_initial_weights),
    )
    for rule in rules:
        issues.add_violations(rule(run), run.actor, run)
    if run.ref is not None:
        issues.add_violations(check_reference(run, run.ref), run.ref, run)
    if run.is_online:
        check_online(run, issues)


def _check_role(role: RoleConfig, run: RunConfig, issues: Issues) -> None:
    """Check the model and the layout of a role where they differ from the actor's, which is checked first.

    A reward without a model of the role has neither.
    """
    if role.name == "reward" and role.reward_source != "model":
        return
    rules = [] if role is not run.actor and role.batch == run.actor.batch else [check_micro_batch]
    if role is run.actor or role.model != run.actor.model:
        rules += [check_model, check_experts]
    if role is run.actor or (role.model, role.parallel) != (run.actor.model, run.actor.parallel):
        rules += [check_split, check_expert_split, check_npu_limits]
    rules.append(check_pool if run.layout_role(run.pool_of(role.name)) is role else check_shared_layout)
    for rule in rules:
        issues.add_violations(rule(role, run), role, run)
