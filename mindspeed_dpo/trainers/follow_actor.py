"""Connects a reference that is updated with the actor."""

from __future__ import annotations

from mindspeed_dpo.config.run import RunConfig
from mindspeed_dpo.controller.role_groups import ActorGroup, ReferenceGroup
from mindspeed_dpo.controller.worker_group import WorkerGroup


def follow_actor(
    config: RunConfig, actor: ActorGroup, reference: ReferenceGroup, trained: WorkerGroup, group: WorkerGroup
) -> None:
    """Connect a reference that is updated, and on processes of its own, with the actor."""
    if config.actor.reference.sync_ref_model and group is not trained:
        reference.follow(trained, config.actor.parallel.pipeline_model_parallel_size)
        actor.save_with(reference)
