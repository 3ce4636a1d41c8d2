"""The roles of one worker process, which share its device and process groups: built, called and dropped.

This module imports megatron-core, so it is imported only once the device is active.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.parallel import process_groups
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.reference import build_reference
from mindspeed_dpo.workers.reward import RewardWorker
from mindspeed_dpo.workers.role_calls import P, R, RoleMethod, RoleT, implementation, interface_of
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.rollout import RolloutWorker
from mindspeed_dpo.workers.setup.open_datasets import open_dataset, open_pairs, open_prompts
from mindspeed_dpo.workers.setup.worker_context import WorkerContext
from mindspeed_dpo.workers.vllm_rollout import VllmRolloutWorker


class ColocatedRoles:
    """The roles of this process.

    Attributes:
        context: Run, place and device of the process.
        roles: The roles built so far, by their name in the configuration.
    """

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.roles: dict[str, Role] = {}

    @classmethod
    def join(
        cls,
        run: RunConfig,
        leading: RoleConfig,
        accelerator: Accelerator,
        rank: int,
        world_size: int,
        master: str,
        store: Any = None,
    ) -> ColocatedRoles:
        """Join the default process group and split it by the leading role's layout; a collective."""
        parallel = leading.parallel
        process_groups.join(rank, world_size, master, accelerator.backend, parallel.distributed_timeout_minutes, store)
        return cls.on_joined_group(run, leading, accelerator, rank, world_size)

    @classmethod
    def on_joined_group(
        cls, run: RunConfig, leading: RoleConfig, accelerator: Accelerator, rank: int, world_size: int
    ) -> ColocatedRoles:
        """Split a default process group already joined by the leading role's layout; a collective."""
        parallel = leading.parallel
        topology = Topology.of(
            world_size,
            parallel.tensor_model_parallel_size,
            parallel.pipeline_model_parallel_size,
            parallel.context_parallel_size,
            parallel.expert_parallel_size,
        )
        process_groups.split(topology, parallel.distributed_timeout_minutes)
        return cls(WorkerContext(run, topology.place(rank), accelerator))

    def build(self, name: str) -> None:
        """Build a role from its settings; a collective. A rollout or reference is built after the actor beside it."""
        self.roles[name] = BUILDERS[name](self)

    def drop(self, name: str) -> None:
        """Drop a role and free its memory."""
        del self.roles[name]

    def call(self, method: RoleMethod[RoleT, P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method of a role that was built, named by its interface: `Actor.update`, for example.

        Raises:
            LookupError: The role has not been built in this process.
        """
        interface = interface_of(method)
        for role in self.roles.values():
            if isinstance(role, interface):
                return implementation(role, method)(*args, **kwargs)
        raise LookupError(f"{method.__qualname__}: this process has only the roles {', '.join(self.roles) or 'none'}")

    def check_alive(self) -> None:
        """Check that what the roles have started beside this process still runs.

        Raises:
            RuntimeError: Something has ended.
        """
        for role in self.roles.values():
            role.check_alive()

    def leave(self) -> None:
        """Drop all roles and destroy the process groups."""
        self.roles.clear()
        process_groups.leave()


def _build_actor(process: ColocatedRoles) -> ActorWorker:
    run = process.context.run
    return ActorWorker(process.context, run.actor, open_dataset(run))


def _build_reference(process: ColocatedRoles) -> Role:
    run = process.context.run
    assert run.ref is not None, "the run has no reference"
    return build_reference(process.context, run.ref, None if run.is_online else open_pairs(run), _actor_of(process))


def _build_rollout(process: ColocatedRoles) -> Role:
    settings = process.context.run.rollout
    assert settings is not None, "only an online run has a rollout"
    worker = VllmRolloutWorker if settings.rollout.uses_vllm else RolloutWorker
    return worker(process.context, settings, open_prompts(process.context.run), _actor_of(process))


def _build_reward(process: ColocatedRoles) -> RewardWorker:
    settings = process.context.run.reward
    assert settings is not None, "only an online run has a reward"
    return RewardWorker(process.context, settings, open_prompts(process.context.run))


def _actor_of(process: ColocatedRoles) -> ActorWorker | None:
    """The actor in this process, where the roles share one."""
    actor = process.roles.get("actor")
    assert actor is None or isinstance(actor, ActorWorker)
    return actor


BUILDERS: dict[str, Callable[[ColocatedRoles], Role]] = {
    "actor": _build_actor,
    "ref": _build_reference,
    "rollout": _build_rollout,
    "reward": _build_reward,
}
"""Builders of the roles, by their name in the configuration."""
