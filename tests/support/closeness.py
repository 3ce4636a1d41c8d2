"""How close two routes to the same numbers must come, and why.

A route is a layout, a packing, a device, another engine or another implementation. There are three kinds of comparison:

* The same operations in the same order: equal to the bit, by `==` and `torch.equal`.
* One forward or backward pass: float32 rounding alone, `ROUNDING`.
* Several optimizer steps, where an update depends on the one before: a `Bound`, which is `MARGIN` times what the run
  itself makes of the smallest change of its initial weights. `python -m tests.support.sensitivity` measures that; the
  numbers are those of the mathematics of the run, not of a processor.

Runs that are compared over several steps use `STEADY`. With CLOSENESS_LOG set to a file, every comparison adds to it
how much of its bound it used (tests/instruction_sets.py prints the largest).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROUNDING = 1e-5
"""Of one pass, relative to a tensor's L2 norm: 84 units of float32.

A sum of n products in another order differs by about sqrt(n) / 2 units, n up to 262 here, and errors of the 7 products
of each of up to 8 layers add up like a random walk, forward and backward: sqrt(2 * 56 * 262) / 2 = 86 units.
"""

STEADY: dict[str, Any] = {"adam_eps": 1e-4, "lr": 1e-3}
"""Settings of runs that are compared over several steps: no step is all rounding error, and steps are small.

Adam's first steps have the length of the learning rate whatever the size of the gradient. With the default eps of 1e-8
a gradient that is all rounding error moves its weight by a step of random sign. With 1e-4, about a hundredth of the
gradients' root mean square, the error of a gradient is divided by 1e-4 at most. At a learning rate of 1e-3 a
step moves a weight by some percent of its size; at 1e-2, by half of it, so that the fourth step amplifies rounding a
hundredfold. The recordings and the comparisons to the bit use other settings.
"""

STEADY_ADAPTERS: dict[str, Any] = {**STEADY, "lr": 1e-2}
"""The same for adapters, which start from zeros."""

MARGIN = 8
"""A limit by what one last-place change of every weight does.

The change comes once. The rounding errors of a route are as large and come at each of the 7 products of four layers,
forward and backward; like a random walk they add up to sqrt(2 * 4 * 7) = 7.5 of them.
"""

FLOOR = 5e-6
"""No limit is below this, 42 units of float32: a run may react to its weights less than its own operations round."""


@dataclass(frozen=True)
class Bound:
    """What a last-place change of all initial weights does to a run, the largest of eight draws.

    Attributes:
        first: Change of a metric at the first step, by the scale of `distance`.
        later: The same at any later step.
        update: Change of the update of all weights, in relative L2.
    """

    first: float
    later: float
    update: float

    def limit(self, what: str) -> float:
        """How far two routes may differ in one of the attributes."""
        return max(MARGIN * getattr(self, what), FLOOR)


FULL = Bound(first=3.5e-07, later=1.3e-06, update=3.5e-06)
"""Up to four steps of all weights of the tiny models, with `STEADY`."""
ADAPTERS = Bound(first=3.4e-07, later=4.3e-07, update=7.3e-06)
"""Four steps of adapters, with `STEADY_ADAPTERS`."""
RECORDED = Bound(first=1.2e-06, later=1.9e-06, update=2.9e-06)
"""Ten steps with the settings of the recordings."""
SHIPPED = Bound(first=4.5e-08, later=1.5e-06, update=7.3e-07)
"""Twelve steps of the shipped example."""
ENGINE = Bound(first=1.7e-06, later=8.9e-07, update=7.0e-06)
"""Four steps of the engine's own tiny models; `update` also of Adam's moments, relative to each tensor."""

EXACT = {"step", "learning_rate", "num_tokens", "consumed_samples"}
"""Metrics that are not computed from floating-point results."""


def distance(name: str, actual: float, expected: float) -> float:
    """The difference of two values of a metric on the metric's scale.

    A gradient norm has no scale but its own. The others are built from log-probabilities of a response, several nats
    that may cancel: their scale is one nat at least.
    """
    scale = abs(expected) if name.endswith("grad_norm") else max(1.0, abs(expected))
    return abs(actual - expected) / scale if actual != expected else 0.0


def is_of_the_clock(name: str) -> bool:
    """Whether a metric depends on the machine: how fast it is, how much memory a process took of it."""
    return name.startswith(("timing/", "memory/")) or name.endswith("_per_s")


def assert_same_run(
    actual: Sequence[Mapping[str, float]],
    expected: Sequence[Mapping[str, float]],
    bound: Bound,
    names: Collection[str] | None = None,
    but: Collection[str] = (),
) -> None:
    """The metrics of two runs, step by step, differ by the bound's limit at most.

    Args:
        actual: Metrics of each step along one route.
        expected: The same along the other.
        bound: Of this kind of run.
        names: What is compared; everything in `expected` that does not depend on the machine where absent.
        but: What is not compared.
    """
    for step, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        limit = bound.limit("later" if step else "first")
        chosen = [name for name in theirs if not is_of_the_clock(name)] if names is None else names
        for name in set(chosen) - set(but):
            if name in EXACT:
                assert ours[name] == theirs[name], (step, name)
            else:
                _hold(distance(name, ours[name], theirs[name]), limit, (step, name, ours[name], theirs[name]))


def assert_same_update(
    before: Iterable[Tensor], actual: Iterable[Tensor], expected: Iterable[Tensor], bound: Bound
) -> None:
    """Two updates of the same weights, each as one vector, differ by the bound's limit at most in relative L2.

    Single weights are not compared: see `STEADY`.

    Args:
        before: Weights before the first step, in parts.
        actual: Weights after the last step along one route, in the same parts.
        expected: The same along the other.
        bound: Of this kind of run.
    """
    start, ours, theirs = (
        torch.cat([part.flatten().double() for part in parts]) for parts in (before, actual, expected)
    )
    moved = theirs - start
    assert moved.any(), "nothing was learned"
    _hold(float((ours - theirs).norm() / moved.norm()), bound.limit("update"), "update")


def assert_same_tensors(actual: Mapping[Any, Tensor], expected: Mapping[Any, Tensor], bound: float = ROUNDING) -> None:
    """Results of one pass, such as the gradient of every parameter, differ by a share of their own L2 norm at most."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape, name
        error, norm = (actual[name].double() - tensor.double()).norm(), tensor.double().norm()
        _hold(float(error / norm) if error else 0.0, bound, name)


def _hold(actual: float, limit: float, what: Any) -> None:
    if log := os.environ.get("CLOSENESS_LOG"):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0]
        with Path(log).open("a") as file:
            file.write(json.dumps({"share": actual / limit, "actual": actual, "test": test, "what": str(what)}) + "\n")
    assert actual <= limit, f"{what}: off by {actual:.2e}, allowed is {limit:.2e}"
