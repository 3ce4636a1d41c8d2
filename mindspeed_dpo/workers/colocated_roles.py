"""The roles of one process, once its device is active: built, called by name, dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mindspeed_dpo.config.run import RoleConfig, RunConfig
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.parallel import groups
from mindspeed_dpo.parallel.topology import Topology
from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.reference import reference_of
from mindspeed_dpo.workers.reward import RewardWorker
from mindspeed_dpo.workers.rollout import RolloutWorker
from mindspeed_dpo.workers.setup.builders import Seat
from mindspeed_dpo.workers.setup.sources import open_dataset, open_pairs, open_prompts

Roles = dict[str, Any]
Builder = Callable[[Seat, RoleConfig, Roles], Any]
"""Makes a role, given the roles that this process has already."""

BUILDERS: dict[str, Builder] = {
    "actor": lambda seat, role, _: ActorWorker(seat, role, open_dataset(seat.run)),
    "ref": lambda seat, role, roles: reference_of(
        seat, role, None if seat.run.is_online else open_pairs(seat.run), roles.get("actor")
    ),
    "rollout": lambda seat, role, roles: RolloutWorker(seat, role, open_prompts(role), roles.get("actor")),
    "reward": lambda seat, role, _: RewardWorker(seat, role, open_prompts(role)),
}


class Crew:
    """The roles that share this process, its device and its process groups."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.roles: Roles = {}

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
    ) -> Crew:
        """Join the process group and split it by the leading role's layout; a collective."""
        parallel = leading.parallel
        groups.join(rank, world_size, master, accelerator.backend, parallel.distributed_timeout_minutes, store)
        return cls.seated(run, leading, accelerator, rank, world_size)

    @classmethod
    def seated(cls, run: RunConfig, leading: RoleConfig, accelerator: Accelerator, rank: int, world_size: int) -> Crew:
        """Split a process group that this process has joined already."""
        parallel = leading.parallel
        topology = Topology.of(
            world_size,
            parallel.tensor_model_parallel_size,
            parallel.pipeline_model_parallel_size,
            parallel.context_parallel_size,
        )
        groups.split(topology, parallel.distributed_timeout_minutes)
        return cls(Seat(run, topology.place(rank), accelerator))

    def build(self, role: str) -> None:
        """Build a role with its settings; every process of the pool must. A rollout is built after its actor."""
        settings: RoleConfig = getattr(self.seat.run, role)
        self.roles[role] = BUILDERS[role](self.seat, settings, self.roles)

    def drop(self, role: str) -> None:
        """Let go of a role and its memory."""
        del self.roles[role]

    def leave(self) -> None:
        """End the roles and the process groups."""
        self.roles.clear()
        groups.leave()
