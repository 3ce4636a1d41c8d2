"""Draw the curves of an online run's metrics.jsonl as text: score, distance from the reference, accuracy.

    python examples/tiny/show_online.py RUN_FOLDER/metrics.jsonl [--above 0.9] [--png curves.png]

With --above the exit code tells whether the mean score of the last tenth of the steps got there. A picture needs
matplotlib, which this project does not install.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCORE = "objective/scores"
CURVES = {
    SCORE: "mean score of the answers",
    "objective/kl": "KL from the reference, nats per answer",
    "rewards/accuracies": "share of pairs whose chosen answer the policy prefers",
}
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
Steps = list[dict[str, Any]]


def read_steps(path: Path) -> Steps:
    """The steps that have a score, in order.

    Raises:
        ValueError: There is none.
    """
    steps: Steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    steps = [step for step in steps if SCORE in step]
    if not steps:
        raise ValueError(f"{path}: no step has {SCORE}; is it of an online run?")
    return steps


def values_of(steps: Steps, name: str) -> list[float]:
    """The finite values of a curve; a step without pairs has no accuracy."""
    found = (step.get(name) for step in steps)
    return [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]


def thinned(values: Sequence[float], width: int) -> list[float]:
    """At most `width` means over neighbours, in order."""
    columns = min(width, len(values))
    bounds = [len(values) * column // columns for column in range(columns + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]


def bars(values: Sequence[float], width: int = WIDTH) -> str:
    """A line of bars from the least to the greatest value."""
    points = thinned(values, width)
    low, high = min(points), max(points)
    return "".join(BARS[round((point - low) / ((high - low) or 1) * (len(BARS) - 1))] for point in points)


def last_tenth(values: Sequence[float]) -> float:
    """Mean of the last tenth, one value at least."""
    tail = values[-max(1, len(values) // 10) :]
    return sum(tail) / len(tail)


def draw(steps: Steps) -> None:
    """Print every curve that the run has."""
    print(f"{len(steps)} steps")
    for name, meaning in CURVES.items():
        values = values_of(steps, name)
        if values:
            print(f"{name}: {meaning}")
            extremes = f"(from {min(values):.3f} to {max(values):.3f})"
            print(f"  {values[0]:8.3f} {bars(values)} {last_tenth(values):.3f}  {extremes}")


def picture(steps: Steps, path: Path) -> bool:
    """Save the curves as an image; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        print(f"matplotlib is not installed, so there is no {path}", file=sys.stderr)
        return False
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(len(CURVES), sharex=True, figsize=(7, 7))
    for axis, (name, meaning) in zip(axes, CURVES.items(), strict=True):
        known = [(step["step"], step[name]) for step in steps if name in step]
        axis.plot(*zip(*known, strict=True))
        axis.set_title(meaning, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    print(f"wrote {path}")
    return True


def main() -> int:
    """Draw; 1 where --above was not reached or the file is of no use, 2 without matplotlib for --png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", type=Path, help="metrics.jsonl of a run")
    parser.add_argument("--above", type=float, help="the score that the last tenth of the steps must reach")
    parser.add_argument("--png", type=Path, help="picture to write, where matplotlib is installed")
    options = parser.parse_args()
    try:
        steps = read_steps(options.metrics)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    draw(steps)
    if options.png and not picture(steps, options.png):
        return 2
    reached = last_tenth(values_of(steps, SCORE))
    if options.above is not None and reached < options.above:
        print(f"the mean score of the last tenth is {reached:.3f}, not {options.above:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
