"""What a last-place change of the initial weights does to a run: the measure of the bounds in `closeness.py`.

python -W ignore -m tests.support.sensitivity [bound ...]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

from torch import Tensor

from mindspeed_dpo.workers.colocated_roles import ColocatedRoles
from tests.support import runs
from tests.support.closeness import Bound, distance, is_of_the_clock
from tests.support.processes import PoolGroup, pool
from tests.support.sensitivity_runs import ENGINES, RUNS, EngineJob, MakeRun, nudge, weights

DRAWS = 8
Result = tuple[list[dict[str, float]], list[Tensor]]
"""Metrics of each step, and vectors that are compared in relative L2: the update, perhaps moments."""


class NudgedGroup(PoolGroup):
    """A pool whose models have each weight moved to a float32 neighbour before the first step; draw 0 moves none."""

    draw = 0
    update: Tensor

    def build(self, role: str) -> None:
        """Build a role and move its weights."""
        super().build(role)
        if role in ("actor", "ref"):
            self.inspect(nudge_role, role, self.draw)
        if role == "actor":
            self._before = self.inspect(weights_of_actor)[0]

    def leave(self) -> None:
        """Keep what was learned, then leave."""
        type(self).update = self.inspect(weights_of_actor)[0] - self._before
        super().leave()


def nudge_role(colocated: ColocatedRoles, role: str, draw: int) -> None:
    """The same draw for the policy and its reference."""
    nudge(colocated.roles[role].engine.model, draw)


def weights_of_actor(colocated: ColocatedRoles) -> Tensor:
    """All weights in one vector."""
    return weights(colocated.roles["actor"].engine.model)


def run_result(make: MakeRun, draw: int) -> Result:
    """Of a run in one process."""
    NudgedGroup.draw = draw
    with tempfile.TemporaryDirectory() as folder, patch.object(runs, "PoolGroup", NudgedGroup):
        return runs.train(make(Path(folder))), [NudgedGroup.update]


def engine_result(job: EngineJob, draw: int) -> Result:
    """Of a model of the engine's own tests."""
    norms, vectors = pool(1).run(job, draw)[0]
    return [{"grad_norm": norm} for norm in norms], vectors


def largest(draws: list[Result]) -> Bound:
    """The largest change from the first to any other."""
    (expected, vectors), *others = draws
    names = [name for name in expected[0] if not is_of_the_clock(name)]

    def change(steps: slice) -> float:
        pairs = [pair for actual, _ in others for pair in zip(actual[steps], expected[steps], strict=True)]
        return max(distance(name, ours[name], theirs[name]) for ours, theirs in pairs for name in names)

    moved = [float((a - b).norm() / b.norm()) for _, actual in others for a, b in zip(actual, vectors, strict=True)]
    return Bound(change(slice(1)), change(slice(1, None)), max(moved))


def measured(name: str) -> Bound:
    """The largest change over the draws of all runs that a bound is for."""
    results = [[engine_result(job, draw) for draw in range(1 + DRAWS)] for job in ENGINES.get(name, ())]
    results += [[run_result(make, draw) for draw in range(1 + DRAWS)] for make in RUNS.get(name, ())]
    actual = [largest(draws) for draws in results]
    return Bound(*(max(getattr(one, field) for one in actual) for field in ("first", "later", "update")))


if __name__ == "__main__":
    for name in sys.argv[1:] or (*RUNS, *ENGINES):
        actual = measured(name)
        line = f"{name} = Bound(first={actual.first:.1e}, later={actual.later:.1e}, update={actual.update:.1e})"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
