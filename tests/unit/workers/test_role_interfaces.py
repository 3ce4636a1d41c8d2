"""Methods of roles as references: which interface declares one, and which role of a process runs the call."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mindspeed_dpo.workers.actor import ActorWorker
from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from mindspeed_dpo.workers.reference import ReferenceWorker
from mindspeed_dpo.workers.reward import RewardWorker
from mindspeed_dpo.workers.role_calls import INTERFACES, interface_of
from mindspeed_dpo.workers.role_interfaces.actor_interface import Actor
from mindspeed_dpo.workers.role_interfaces.reference_interface import Reference
from mindspeed_dpo.workers.role_interfaces.role import Role
from mindspeed_dpo.workers.rollout import RolloutWorker

METHODS = [(role, method) for role in INTERFACES for name, method in vars(role).items() if not name.startswith("_")]


class Doubling(ReferenceWorker):
    def __init__(self) -> None:
        """Needs no model."""

    def ema_update(self, alpha: float) -> Any:
        return 2 * alpha


def process(**roles: Role) -> ColocatedRoles:
    colocated = ColocatedRoles(SimpleNamespace())  # type: ignore[arg-type]
    colocated.roles.update(roles)
    return colocated


@pytest.mark.parametrize(("role", "method"), METHODS, ids=lambda value: getattr(value, "__qualname__", None))
def test_a_method_belongs_to_its_interface_in_another_process_too(role: type[Role], method: Any) -> None:
    assert interface_of(pickle.loads(pickle.dumps(method))) is role


@pytest.mark.parametrize("method", [ActorWorker.update, torch.sum], ids=["of a worker", "of no role"])
def test_a_method_that_no_interface_declares_is_refused(method: Any) -> None:
    with pytest.raises(TypeError, match=r"is not declared by an interface of a role; call it as Actor\.update"):
        interface_of(method)


def test_a_call_reaches_the_implementation_of_the_role_that_was_built() -> None:
    assert process(ref=Doubling()).call(Reference.ema_update, 0.25) == 0.5


def test_a_role_that_was_not_built_is_named() -> None:
    with pytest.raises(LookupError, match=r"Actor\.log_probs: this process has only the roles ref"):
        process(ref=Doubling()).call(Actor.log_probs, [1])


def test_every_interface_has_a_worker_that_implements_it() -> None:
    workers = (ActorWorker, ReferenceWorker, RolloutWorker, RewardWorker)
    assert [worker.__mro__[1] for worker in workers] == list(INTERFACES)
    assert not any(worker.__abstractmethods__ for worker in workers)
