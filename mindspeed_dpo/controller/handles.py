"""A role of a group behind the same verbs as the role itself, so that trainers do not know where it runs."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mindspeed_dpo.workers.roles import Logps, Rows


class Group(Protocol):
    """Processes that act as one and answer in rank order."""

    def build(self, role: str) -> None:
        """Build a role in every process."""

    def drop(self, role: str) -> None:
        """Drop a role in every process."""

    def call(self, role: str, verb: str, *args: Any) -> list[Any]:
        """Let a role do something in every process."""


class ReferenceHandle:
    """A role that scores rows."""

    def __init__(self, group: Group, role: str = "ref") -> None:
        self._group = group
        self._role = role

    def log_probs(self, rows: Rows) -> Logps:
        """See `roles.Reference`."""
        answers = self._group.call(self._role, "log_probs", np.asarray(rows))
        # One process of each replica answers; ranks grow with the replica, and replicas hold consecutive rows.
        return np.concatenate([answer for answer in answers if answer is not None])


class ActorHandle(ReferenceHandle):
    """The trained role."""

    def __init__(self, group: Group, role: str = "actor") -> None:
        super().__init__(group, role)

    def update(self, step: int, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """See `roles.Actor`."""
        return _only(self._group.call(self._role, "update", step, np.asarray(rows), ref_logps))

    def evaluate(self, rows: Rows, ref_logps: Logps) -> dict[str, float]:
        """See `roles.Actor`."""
        return _only(self._group.call(self._role, "evaluate", np.asarray(rows), ref_logps))

    def save(self, iteration: int) -> str:
        """See `roles.Actor`."""
        return str(self._group.call(self._role, "save", iteration)[0])

    def load(self, folder: str, optimizer: bool, rng: bool) -> None:
        """See `roles.Actor`."""
        self._group.call(self._role, "load", folder, optimizer, rng)


def _only(answers: list[Any]) -> Any:
    (answer,) = [one for one in answers if one is not None]
    return answer
