"""Calls of roles by reference: which interface declares a method, and which method implements it in a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

from mindspeed_dpo.workers.role_interfaces.actor_interface import Actor
from mindspeed_dpo.workers.role_interfaces.reference_interface import Reference
from mindspeed_dpo.workers.role_interfaces.reward_interface import Reward
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.role_interfaces.rollout_interface import Rollout

INTERFACES = (Actor, Reference, Rollout, Reward)

RoleT = TypeVar("RoleT", bound=Role)
P = ParamSpec("P")
R = TypeVar("R")
RoleMethod = Callable[Concatenate[RoleT, P], R]
"""A method as an interface declares it, such as `Actor.update`: a role, then its arguments."""


def interface_of(method: RoleMethod[RoleT, P, R]) -> type[RoleT]:
    """Return the interface that declares a method.

    Raises:
        TypeError: None does: the method belongs to a worker class, or to no role at all.
    """
    for interface in INTERFACES:
        if method in vars(interface).values():
            return cast(type[RoleT], interface)
    raise TypeError(f"{method!r} is not declared by an interface of a role; call it as Actor.update, for example")


def implementation(role: RoleT, method: RoleMethod[RoleT, P, R]) -> Callable[P, R]:
    """Return a role's own implementation of a method that its interface declares, bound to the role."""
    bound: Callable[P, R] = getattr(role, method.__name__)
    return bound
