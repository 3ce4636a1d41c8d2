"""The parts of a report: charts with their legends, tables and sample texts, as values for the template."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mindspeed_dpo.observability.chart_groups import Chart, base_name, charts_of
from mindspeed_dpo.report.drawing import Series, draw_histograms, draw_lines, short_number
from mindspeed_dpo.report.histograms import Histogram
from mindspeed_dpo.report.run_folder import RunRecord
from mindspeed_dpo.report.sample_files import Sample
from mindspeed_dpo.storage.user_paths import real_path

MAX_TEXT = 1500
"""Characters of a prompt or response that are shown."""
MAX_PROMPTS, MAX_RESPONSES = 6, 6
MAX_NAME_PARTS = 3


@dataclass(frozen=True)
class Figure:
    """A chart with its caption.

    Example:
        Figure("Loss", "", "loss: Mean total loss ...", Markup("<svg/>"), [("train", "tone-0")])

    Attributes:
        title: What it shows.
        unit: Unit of its values, or "".
        meaning: Definition of its values.
        svg: The chart.
        legend: Name and classes of each series.
    """

    title: str
    unit: str
    meaning: str
    svg: Markup
    legend: Sequence[tuple[str, str]]


def chart_figures(runs: Sequence[RunRecord], names: Sequence[str]) -> list[tuple[str, list[Figure]]]:
    """Return the groups of charts; with several runs each chart has one metric and a colour for each run."""
    metrics = list(dict.fromkeys(name for run in runs for name in run.curves.by_name))
    groups = []
    for title, charts in charts_of(metrics, separate=len(runs) > 1):
        figures = [figure for chart in charts if (figure := _figure(chart, runs, names, metrics))]
        if figures:
            groups.append((title, figures))
    return groups


def _figure(chart: Chart, runs: Sequence[RunRecord], names: Sequence[str], metrics: Sequence[str]) -> Figure | None:
    series = [one for one in _series(chart, runs, names, metrics) if one.points]
    if not series:
        return None
    # Serialised by ElementTree, which escapes.
    svg = Markup(draw_lines(chart.title, series))
    return Figure(chart.title, chart.unit, chart.meaning, svg, [(one.name, one.look) for one in series])


def _series(chart: Chart, runs: Sequence[RunRecord], names: Sequence[str], metrics: Sequence[str]) -> Iterator[Series]:
    tone = 0
    for number, (run, name_of_run) in enumerate(zip(runs, names, strict=True)):
        for base in chart.metrics:
            for metric in metrics:
                name_of_set, its_base = base_name(metric)
                if its_base != base or metric not in run.curves.by_name:
                    continue
                parts = [
                    *([name_of_run] if len(runs) > 1 else []),
                    *([base.rpartition("/")[2]] if len(chart.metrics) > 1 else []),
                    *([name_of_set] if name_of_set or len(chart.metrics) == 1 else []),
                ]
                label = " ".join(part or "train" for part in parts)
                colour = number if len(runs) > 1 else tone
                yield Series(label, colour, bool(name_of_set), run.curves.by_name[metric].points())
                tone += len(chart.metrics) == 1
            tone += len(chart.metrics) > 1


def histogram_figures(run: RunRecord) -> list[Figure]:
    """Return histograms of lengths, scores and margins, as far as the run has them."""
    figures = []
    if run.facts.lengths:
        figures.append(_histograms("Lengths of the training data", "tokens", run.facts.lengths))
    lengths = [float(one.num_tokens) for one in run.samples if one.num_tokens is not None]
    if lengths:
        figures.append(
            _histograms("Lengths of sample responses", "tokens", {"responses": Histogram.of(lengths, smallest_width=1)})
        )
    by_role = {
        role: [one.score for one in run.samples if role in one.role.split("+") and one.score is not None]
        for role in ("chosen", "rejected")
    }
    scores = [score for values in by_role.values() for score in values]
    if scores:
        low, high = min(scores), max(scores)
        shown = {role: Histogram.of(values, low, high) for role, values in by_role.items() if values}
        figures.append(_histograms("Scores of sample responses", "", shown))
    if run.margins:
        title = f"Reward margins of the evaluation at step {run.margins.step}"
        figures.append(_histograms(title, "", {"pairs": run.margins.margins}))
    return figures


def _histograms(title: str, unit: str, histograms: Mapping[str, Histogram]) -> Figure:
    series = [Series(name, tone, histogram=one) for tone, (name, one) in enumerate(histograms.items())]
    svg = Markup(draw_histograms(title, series))
    return Figure(title, unit, "", svg, [(one.name, one.look) for one in series])


def metric_rows(run: RunRecord) -> list[tuple[str, str, str, str, str, int]]:
    """Return name, first, last, smallest and largest value of the main metrics, and the number of steps without one."""
    rows = []
    for name, curve in run.curves.by_name.items():
        base = base_name(name)[1]
        if not base.startswith(("loss", "rewards/", "win_rate", "objective/", "grad_norm")) or not (
            curve.values or curve.num_not_finite
        ):
            continue
        values = curve.values or [math.nan]
        first, last, smallest, largest = map(short_number, (values[0], values[-1], min(values), max(values)))
        rows.append((name, first, last, smallest, largest, curve.num_not_finite))
    return rows


def sample_groups(run: RunRecord) -> list[tuple[str, list[Sample]]]:
    """Return the prompts of the newest step with samples, each with its responses."""
    newest = max((one.step for one in run.samples), default=0)
    by_row: dict[int, list[Sample]] = {}
    for one in run.samples:
        if one.step == newest:
            by_row.setdefault(one.row, []).append(one)
    groups = list(by_row.values())[:MAX_PROMPTS]
    return [(responses[0].prompt, _best_and_worst(responses)) for responses in groups]


def _best_and_worst(responses: Sequence[Sample]) -> list[Sample]:
    """Sort responses by score, those without one last; of many keep both ends."""
    ordered = sorted(responses, key=lambda one: -math.inf if one.score is None else one.score, reverse=True)
    return (
        ordered if len(ordered) <= MAX_RESPONSES else [*ordered[: MAX_RESPONSES // 2], *ordered[-MAX_RESPONSES // 2 :]]
    )


def differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Return each key whose value is not the same in all runs, with its value in each; "–" where it is absent."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    rows = [(key, [run.settings.get(key, "–") for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def distinct_names(runs: Sequence[RunRecord]) -> list[str]:
    """Return the name of a single run, else the shortest ends of the folders' paths that tell the runs apart."""
    if len(runs) == 1:
        return [runs[0].name]
    paths = [real_path(run.folder).parts for run in runs]
    for count in range(1, MAX_NAME_PARTS + 1):
        names = ["/".join(parts[-count:]) for parts in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number + 1}: {run.name}" for number, run in enumerate(runs)]
