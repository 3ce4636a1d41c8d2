"""Which processes each role sits on: the pools of the file, the rollout's part of the actor's, who shares with whom."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mindspeed_dpo.config.issues import Issues
from mindspeed_dpo.config.loading.parse import format_value
from mindspeed_dpo.config.loading.sections import ALL_POOLS, Sections
from mindspeed_dpo.config.settings.online import RolloutConfig

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class PoolAssignment:
    """Where roles sit.

    Attributes:
        pools: Processes per node of each pool.
        sharing: Role that has no pool of its own to the other role's pool where it sits; `actor_rollout` goes unsaid.
    """

    pools: dict[str, Sizes]
    sharing: dict[str, str]

    def pool_of(self, role: str) -> str:
        """The pool a role sits on."""
        return role if role in self.pools else self.sharing.get(role, "actor_rollout")


def split_pool(sizes: Sizes, count: int) -> tuple[Sizes, Sizes]:
    """Cut the last `count` processes off a pool: what stays and what was cut, each per node, in order."""
    front, tail = list(sizes), list[int]()
    while count:
        taken = min(front[-1], count)
        tail.insert(0, taken)
        front[-1] -= taken
        count -= taken
        if not front[-1]:
            front.pop()
    return tuple(front), tuple(tail)


def seat(sections: Sections, replica: int, rollout: RolloutConfig, online: bool, findings: Issues) -> PoolAssignment:
    """Seat the roles of a file.

    Args:
        sections: The file.
        replica: Processes of one replica of the actor.
        rollout: What the file says about devices that train and that generate.
        online: Whether there is a rollout.
        findings: Gathers what does not fit.
    """
    whole = sections.pools.get("actor_rollout")
    if whole is None:
        whole = ((rollout.num_gpus_for_train or replica) + (rollout.num_gpus_for_infer or 0),)
        findings.note(f"resource_pool.actor_rollout is not set: {whole[0]} processes on one node")
    pools = {"actor_rollout": whole}
    if online:
        _, infer = _counted(rollout, whole, findings)
        pools["actor_rollout"], tail = split_pool(whole, infer)
        pools.update({"rollout": tail} if tail else {})
    pools.update({name: sizes for name, sizes in sections.pools.items() if name != "actor_rollout"})
    ordered = {name: pools[name] for name in ALL_POOLS if name in pools}
    return PoolAssignment(ordered, _sharing(sections.same_pool, ordered, findings))


def with_devices(rollout: RolloutConfig, pools: dict[str, Sizes]) -> RolloutConfig:
    """The settings with the number of devices that each part has got."""
    train, infer = sum(pools["actor_rollout"]), sum(pools.get("rollout", ()))
    return replace(rollout, num_gpus_for_train=train, num_gpus_for_infer=infer)


def _counted(rollout: RolloutConfig, whole: Sizes, findings: Issues) -> tuple[int, int]:
    """Devices that train and that only generate; one that is not given is what the other leaves."""
    total = sum(whole)
    train, infer = rollout.num_gpus_for_train, rollout.num_gpus_for_infer
    if train is None:
        train = total - (infer or 0)
    elif infer is None:
        infer = total - train
    if train >= 1 and (infer or 0) >= 0 and train + (infer or 0) == total:
        return train, infer or 0
    findings.problem(
        f"num_gpus_for_train={format_value(rollout.num_gpus_for_train)} and num_gpus_for_infer="
        f"{format_value(rollout.num_gpus_for_infer)} must add up to the {total} processes of resource_pool.actor_rollout="
        f"{format_value(whole)}, with one or more to train",
        *("num_gpus_for_train", "num_gpus_for_infer", "actor_rollout"),
    )
    return total, 0


def _sharing(same_pool: dict[str, str], pools: dict[str, Sizes], findings: Issues) -> dict[str, str]:
    """Follow each name to a pool there is; who names one that is not there sits where its role sits."""
    found = {}
    for role in same_pool:
        name, seen = role, {role}
        while name not in pools and name in same_pool:
            name = same_pool[name]
            if name in seen:
                text = f"resource_pool.{role}={same_pool[role]} goes in a circle; give one of them processes"
                findings.problem(text, role, same_pool[role])
                break
            seen.add(name)
        if name in pools and name != "actor_rollout":
            found[role] = name
    return found
