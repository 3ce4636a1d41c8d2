"""The assignment of roles to pools: configured pools, the rollout's share of the actor's pool, and shared pools."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.sections import ALL_POOLS, Sections
from mindspeed_dpo.config.settings.generation import RolloutConfig
from mindspeed_dpo.config.sourced_values import format_value

PoolSizes = tuple[int, ...]
"""Number of processes of a pool on each node."""


@dataclass(frozen=True)
class PoolAssignment:
    """The pool of each role: `PoolAssignment({"actor_rollout": (4,), "rollout": (4,)}, {"reward": "rollout"})`.

    Attributes:
        pools: Number of processes per node of each pool.
        sharing: Role without a pool of its own to the pool that it shares; absent for roles on `actor_rollout`.
    """

    pools: dict[str, PoolSizes]
    sharing: dict[str, str]

    def pool_of(self, role: str) -> str:
        """Return the pool of a role."""
        return role if role in self.pools else self.sharing.get(role, "actor_rollout")


def split_pool(sizes: PoolSizes, count: int) -> tuple[PoolSizes, PoolSizes]:
    """Split off the last `count` processes of a pool. Returns the rest and the part split off, each per node."""
    front, tail = list(sizes), list[int]()
    while count:
        taken = min(front[-1], count)
        tail.insert(0, taken)
        front[-1] -= taken
        count -= taken
        if not front[-1]:
            front.pop()
    return tuple(front), tuple(tail)


def assign_pools(
    sections: Sections, replica_size: int, rollout: RolloutConfig, online: bool, issues: Issues
) -> PoolAssignment:
    """Assign every role to a pool.

    Args:
        sections: The sections of the configuration.
        replica_size: Number of processes of one replica of the actor.
        rollout: Settings with the numbers of devices that train and that generate.
        online: Whether the run has a rollout.
        issues: Receives numbers that contradict each other.
    """
    total = sections.pools.get("actor_rollout")
    if total is None:
        total = ((rollout.num_gpus_for_train or replica_size) + (rollout.num_gpus_for_infer or 0),)
        issues.add_note(f"resource_pool.actor_rollout is not set: {total[0]} processes on one node")
    pools = {"actor_rollout": total}
    if online:
        _, num_infer = _device_counts(rollout, total, issues)
        pools["actor_rollout"], tail = split_pool(total, num_infer)
        pools.update({"rollout": tail} if tail else {})
    pools.update({name: sizes for name, sizes in sections.pools.items() if name != "actor_rollout"})
    ordered = {name: pools[name] for name in ALL_POOLS if name in pools}
    return PoolAssignment(ordered, _resolve_shared_pools(sections.same_pool, ordered, issues))


def with_device_counts(rollout: RolloutConfig, pools: dict[str, PoolSizes]) -> RolloutConfig:
    """Return the settings with the numbers of devices that train and that only generate."""
    train, infer = sum(pools["actor_rollout"]), sum(pools.get("rollout", ()))
    return replace(rollout, num_gpus_for_train=train, num_gpus_for_infer=infer)


def _device_counts(rollout: RolloutConfig, sizes: PoolSizes, issues: Issues) -> tuple[int, int]:
    """Numbers of devices that train and that only generate; an absent number is what the other one leaves."""
    total = sum(sizes)
    train, infer = rollout.num_gpus_for_train, rollout.num_gpus_for_infer
    if train is None:
        train = total - (infer or 0)
    elif infer is None:
        infer = total - train
    if train >= 1 and (infer or 0) >= 0 and train + (infer or 0) == total:
        return train, infer or 0
    issues.add_problem(
        f"num_gpus_for_train={format_value(rollout.num_gpus_for_train)} and num_gpus_for_infer="
        f"{format_value(rollout.num_gpus_for_infer)} must add up to the {total} processes of resource_pool."
        f"actor_rollout={format_value(sizes)}, of which at least one trains",
        *("num_gpus_for_train", "num_gpus_for_infer", "actor_rollout"),
    )
    return total, 0


def _resolve_shared_pools(same_pool: dict[str, str], pools: dict[str, PoolSizes], issues: Issues) -> dict[str, str]:
    """Follow each name of a shared pool to an existing pool; a role that is named without a pool shares in turn."""
    resolved = {}
    for role in same_pool:
        name, visited = role, {role}
        while name not in pools and name in same_pool:
            name = same_pool[name]
            if name in visited:
                text = f"resource_pool.{role}={same_pool[role]} is circular; give one of these pools processes"
                issues.add_problem(text, role, same_pool[role])
                break
            visited.add(name)
        if name in pools and name != "actor_rollout":
            resolved[role] = name
    return resolved
