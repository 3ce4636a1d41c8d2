"""Plot the curves of an online run's metrics.jsonl as text: score, KL from the reference, accuracy.

    python examples/tiny/show_online.py RUN_FOLDER/metrics.jsonl [--above 0.9] [--png curves.png]

With --above the exit code is 1 if the mean score over the last tenth of the steps is lower. --png requires matplotlib,
which this project does not install.
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
    SCORE: "mean score of the responses",
    "objective/kl": "KL from the reference, nats per response",
    "rewards/accuracies": "share of pairs in which the policy prefers the chosen response",
}
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
Steps = list[dict[str, Any]]


def read_steps(path: Path) -> Steps:
    """Return the steps that have a score, in order.

    Raises:
        ValueError: No step has a score.
    """
    steps: Steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    steps = [step for step in steps if SCORE in step]
    if not steps:
        raise ValueError(f"{path}: no step has {SCORE}; is it of an online run?")
    return steps


def values_of(steps: Steps, name: str) -> list[float]:
    """Return the finite values of a curve; a step without pairs has no accuracy."""
    points = (step.get(name) for step in steps)
    return [float(value) for value in points if isinstance(value, int | float) and math.isfinite(value)]


def thinned(values: Sequence[float], width: int) -> list[float]:
    """Return at most `width` values, each the mean of consecutive ones."""
    columns = min(width, len(values))
    bounds = [len(values) * column // columns for column in range(columns + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(bounds)]


def bars(values: Sequence[float], width: int = WIDTH) -> str:
    """Return a line of bars, scaled from the minimum to the maximum."""
    points = thinned(values, width)
    low, high = min(points), max(points)
    return "".join(BARS[round((point - low) / ((high - low) or 1) * (len(BARS) - 1))] for point in points)


def last_tenth(values: Sequence[float]) -> float:
    """Return the mean of the last tenth of the values, at least of one."""
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
    """Save the curves as an image; return False if matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        print(f"matplotlib is not installed, cannot write {path}", file=sys.stderr)
        return False
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(len(CURVES), sharex=True, figsize=(7, 7))
    for axis, (name, meaning) in zip(axes, CURVES.items(), strict=True):
        points = [(step["step"], step[name]) for step in steps if name in step]
        axis.plot(*zip(*points, strict=True))
        axis.set_title(meaning, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    print(f"wrote {path}")
    return True


def main() -> int:
    """Print the curves; return 1 if --above is not reached or the file has no scores, 2 if --png lacks matplotlib."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metrics", type=Path, help="metrics.jsonl of a run")
    parser.add_argument("--above", type=float, help="mean score that the last tenth of the steps must reach")
    parser.add_argument("--png", type=Path, help="image to write; requires matplotlib")
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
