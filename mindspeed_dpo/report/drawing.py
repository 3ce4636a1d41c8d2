"""Draws charts as SVG that takes its colours from the page: light, dark and on paper.

This is the only module that imports pygal, whose styles, scripts and comments are removed: a page has one style sheet,
no script and no address.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import pygal
from pygal.style import Style

from mindspeed_dpo.report.histograms import Histogram

WIDTH, HEIGHT = 460, 220
MAX_DOTS = 40
"""Curves of so few points have dots, which show their values on hovering."""
LARGEST, SMALLEST = 1e30, 1e-30
"""Larger values are drawn as this one, smaller ones as 0: an axis beyond them overflows."""
NARROWEST = 1e-6
"""Share of its values that an axis covers at least: pygal would count forever over ticks closer than float's steps."""
NUM_TONES = 8
"""Colours of the style sheet."""
_STYLE = Style(label_font_size=11, major_label_font_size=11, no_data_font_size=16)
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Series:
    """A line, or the bars of a histogram, with its look.

    Example:
        Series("train", 0, points=[(1, 0.69), (2, 0.67)])

    Attributes:
        name: Its name in the legend.
        tone: Number of its colour.
        is_dashed: Whether its line is dashed, as that of evaluations is.
        points: Step and value, by step.
        histogram: Bars instead of points.
    """

    name: str
    tone: int
    is_dashed: bool = False
    points: Sequence[tuple[int, float]] = ()
    histogram: Histogram | None = None

    @property
    def look(self) -> str:
        """Its classes in the style sheet."""
        return f"tone-{self.tone % NUM_TONES}{' dashed' if self.is_dashed else ''}"


def draw_lines(title: str, series: Sequence[Series], size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    """Draw values over steps as an SVG element of a width and height."""
    series = [replace(one, points=[(step, _drawable(value)) for step, value in one.points]) for one in series]
    steps = [step for one in series for step, _ in one.points]
    chart = pygal.XY(
        **_options(size), x_labels=integer_ticks(min(steps), max(steps)), x_value_formatter=short_number, max_scale=6
    )
    values = [value for one in series for _, value in one.points]
    if _is_narrow(min(values), max(values)):
        chart.config.range = (values[0] - (abs(values[0]) or 1) / 2, values[0] + (abs(values[0]) or 1) / 2)
    for one in series:
        chart.add(one.name, list(one.points), show_dots=len(one.points) <= MAX_DOTS)
    return _svg(chart, title, series)


def _drawable(value: float) -> float:
    return max(-LARGEST, min(value, LARGEST)) if abs(value) >= SMALLEST else 0.0


def _is_narrow(least: float, most: float) -> bool:
    return most - least <= NARROWEST * max(abs(least), abs(most))


def _drawable_bars(histogram: Histogram | None) -> list[tuple[int, float, float]]:
    bars = histogram.bars if histogram else []
    edges = [edge for _, *ends in bars for edge in ends]
    is_drawable = bool(edges) and max(map(abs, edges)) <= LARGEST and not _is_narrow(min(edges), max(edges))
    return bars if is_drawable else []


def draw_histograms(title: str, series: Sequence[Series]) -> str:
    """Draw histograms over each other as an SVG element."""
    chart = pygal.Histogram(**_options(), x_value_formatter=short_number, max_scale=6)
    for one in series:
        chart.add(one.name, _drawable_bars(one.histogram))
    return _svg(chart, title, series)


def _options(size: tuple[int, int] = (WIDTH, HEIGHT)) -> dict[str, object]:
    width, height = size
    return {
        "width": width, "height": height, "css": [], "js": [], "style": _STYLE, "show_legend": False, "no_prefix": True,
        "margin": 6, "spacing": 6, "dots_size": 2.5, "value_formatter": short_number, "min_scale": 3,
    }  # fmt: skip


def _svg(chart: pygal.graph.graph.Graph, title: str, series: Sequence[Series]) -> str:
    root = _parsed(chart)
    root.attrib.update({"role": "img", "aria-label": title, "class": "chart"})
    for parent in list(root.iter()):
        for child in list(parent):
            _clean(parent, child, series)
    return ElementTree.tostring(root, encoding="unicode")


def _parsed(chart: pygal.graph.graph.Graph) -> ElementTree.Element:
    """Return the chart as an element tree, which has no comments, and no namespace for a page of HTML."""
    root = ElementTree.fromstring(chart.render(disable_xml_declaration=True, is_unicode=True))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _clean(parent: ElementTree.Element, child: ElementTree.Element, series: Sequence[Series]) -> None:
    """Remove what the page does not need, and give series the look of the style sheet."""
    kind = child.get("class", "")
    is_value = child.tag == "desc" and kind == "value"
    if child.tag == "defs" or (child.tag in ("desc", "title") and not is_value) or "tooltip-overlay" in kind:
        parent.remove(child)
        return
    if is_value:
        child.tag = "title"
        child.attrib.clear()
    if "series" in kind.split():
        number = next(int(word.removeprefix("serie-")) for word in kind.split() if word.startswith("serie-"))
        child.set("class", f"series {series[number].look}")
    child.attrib.pop("id", None)
    for key in ("x", "y", "cx", "cy", "width", "height"):
        if key in child.attrib:
            child.set(key, f"{float(child.get(key, 0)):.1f}")
    if child.tag == "path":
        child.set("d", " ".join(_rounded(word) for word in child.get("d", "").split()))


def _rounded(word: str) -> str:
    """Shorten a number of a path, possibly after a letter, to a tenth of a pixel."""
    letter, digits = (word[0], word[1:]) if word[:1].isalpha() else ("", word)
    return f"{letter}{float(digits):.1f}" if digits else letter


def integer_ticks(first: int, last: int, most: int = 6) -> list[int]:
    """Return round steps between two steps, at most `most`; the only step where they are equal."""
    width = max((last - first) / (most - 1), 1)
    power = 10 ** math.floor(math.log10(width))
    interval = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width)
    return list(range(math.ceil(first / interval) * interval, last + 1, interval)) or [first]


def short_number(value: float) -> str:
    """Format a number with at most four digits: 0.6931, 12.5, 3.2k, 1.5e-06."""
    size = abs(value)
    for scale, prefix in _PREFIXES:
        if size >= scale:
            return f"{value / scale:.4g}{prefix}"
    return f"{value:.4g}"
