"""Curves of metrics: read from metrics.jsonl, and thinned to what a chart can show."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from mindspeed_dpo.observability.metrics_jsonl import TIME
from mindspeed_dpo.untrusted.json_text import parse_json_object
from mindspeed_dpo.untrusted.text_files import read_lines

MAX_POINTS = 240
"""Points of a curve in a chart, of which one is drawn for each two pixels."""


@dataclass
class Curve:
    """A metric over the steps of a run, for example `Curve(array("q", [1, 2]), array("d", [0.69, 0.68]))`.

    Attributes:
        steps: Steps that have a finite value.
        values: Their values.
        num_not_finite: Number of further steps, whose value is NaN or infinite.
    """

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    num_not_finite: int = 0

    def add(self, step: int, value: float) -> None:
        """Add a step."""
        if not math.isfinite(value):
            self.num_not_finite += 1
            return
        self.steps.append(step)
        self.values.append(value)

    def points(self, most: int = MAX_POINTS) -> list[tuple[int, float]]:
        """Return (step, value) of at most `most` steps: the smallest and the largest of each stretch, so spikes remain.

        The first and the last step are always among them.
        """
        count = len(self.steps)
        if count <= most:
            return list(zip(self.steps, self.values, strict=True))
        num_stretches = (most - 2) // 2
        chosen = {0, count - 1}
        for number in range(num_stretches):
            stretch = range(number * count // num_stretches, (number + 1) * count // num_stretches)
            chosen |= {min(stretch, key=self.values.__getitem__), max(stretch, key=self.values.__getitem__)}
        return [(self.steps[index], self.values[index]) for index in sorted(chosen)]


@dataclass
class MetricCurves:
    """All curves of a run.

    Attributes:
        by_name: Metric to its curve, in the order in which they first occur.
        last_step: The last step that was logged; 0 before the first.
        first_time_s: Time of the first line in seconds since 1970; None if the file has no times.
        last_time_s: Time of the last line.
    """

    by_name: dict[str, Curve] = field(default_factory=dict)
    last_step: int = 0
    first_time_s: float | None = None
    last_time_s: float | None = None


def read_curves(path: Path) -> MetricCurves:
    """Read the complete lines of metrics.jsonl; a file that does not exist yet has no curves.

    Raises:
        MalformedDataError: A line is not what a run writes; the message names it.
    """
    curves = MetricCurves()
    if not path.is_file():
        return curves
    for number, line in read_lines(path):
        if not line.endswith("\n"):
            break  # it is being written
        _add_line(curves, line, f"{path}, line {number}")
    return curves


def _add_line(curves: MetricCurves, line: str, location: str) -> None:
    record = parse_json_object(line, location)
    curves.last_step = record.integer("step")
    time_s = record.number(TIME, None)
    if time_s is not None:
        curves.first_time_s = time_s if curves.first_time_s is None else curves.first_time_s
        curves.last_time_s = time_s
    for name, value in record.items():
        if name not in ("step", TIME):
            curves.by_name.setdefault(name, Curve()).add(curves.last_step, _number(value))


def _number(value: object) -> float:
    """Return a value as a number; what is written as text has no JSON form: NaN and the infinities."""
    return float(value) if isinstance(value, int | float) else math.nan
