"""How far two runs of a case are apart, and how far they may be.

A figure is one logged value, or the update of the weights. Its distance is |a - b| / max(1, |b|), the largest over the
steps; of the update it is the relative error of final minus initial weights in L2. `first` holds the first step's
figures, `run` those of all steps.

A run may be as far from a recording as twice the recording's own distance from the same run in float64, in that figure
and case; or FLOOR, where that is more: a few roundings of float32, summed in another order, for one step and for ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

FLOOR = {"first": 5e-6, "run": 2e-5}
UPDATE = "update"
Distances = dict[str, dict[str, float]]
Steps = list[dict[str, Any]]


def distance(ours: float, theirs: float) -> float:
    """|a - b| / max(1, |b|); infinite where either is not a number."""
    apart = abs(ours - theirs) / max(1.0, abs(theirs))
    return apart if apart == apart else float("inf")


def of_steps(ours: Steps, theirs: Steps, names: Iterable[str]) -> Distances:
    """The distances of logged values by name."""
    assert len(ours) == len(theirs)
    per_step = {
        name: [distance(one[name], other[name]) for one, other in zip(ours, theirs, strict=True)] for name in names
    }
    return {
        "first": {name: actual[0] for name, actual in per_step.items()},
        "run": {name: max(actual) for name, actual in per_step.items()},
    }


def of_update(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> float:
    """Relative L2 error of the complete update, final minus initial weights."""
    assert ours.keys() == theirs.keys() == initial.keys()
    apart = sum(_square(ours[name].double() - theirs[name].double()) for name in initial)
    return float((apart / sum(_square(theirs[name].double() - initial[name].double()) for name in initial)) ** 0.5)


def update_norms(final: Mapping[str, Tensor], initial: Mapping[str, Tensor]) -> dict[str, float]:
    """L2 norm of each parameter's update."""
    assert final.keys() == initial.keys()
    return {name: _square(final[name].double() - initial[name].double()) ** 0.5 for name in initial}


def of_norms(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The relative error of the complete update that the norms of its parameters show; never more than `of_update`."""
    assert ours.keys() == theirs.keys()
    apart = sum((ours[name] - theirs[name]) ** 2 for name in theirs)
    return float((apart / sum(norm**2 for norm in theirs.values())) ** 0.5)


def bound(tier: str, own: float) -> float:
    """How far a run may be from a recording whose own distance from float64 is this."""
    return max(2 * own, FLOOR[tier])


def misses(actual: Distances, own: Distances) -> list[str]:
    """Figures that are further from the recording than they may be."""
    return [
        f"{tier} {name}: {apart:.1e} where {bound(tier, own[tier][name]):.1e} is allowed"
        for tier, figures in actual.items()
        for name, apart in figures.items()
        if not apart <= bound(tier, own[tier][name])
    ]


def _square(tensor: Tensor) -> float:
    return float(torch.sum(tensor * tensor))
