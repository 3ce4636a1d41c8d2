"""Draws docs/curves.svg, the curves of two real runs: `python docs/draw_curves.py [OFFLINE_RUN ONLINE_RUN]`.

With two output folders it first keeps the drawn metrics of their metrics.jsonl in docs/curves; without, it draws those
again. The runs are the last ones of docs/tutorials/offline.md and the one of docs/tutorials/online.md. A test compares
the digest in the picture with what lies in docs/curves.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mindspeed_dpo.report.drawing import Series, draw_lines
from mindspeed_dpo.report.metric_curves import read_curves

DOCS = Path(__file__).resolve().parent
PICTURE, METRICS = DOCS / "curves.svg", DOCS / "curves"
WIDTH, HEIGHT, MARGIN, TOP, BOTTOM = 300, 176, 12, 30, 28
STYLE = """
  svg { --page: #ffffff; --quiet: #59636e; --grid: #e4e8ec; --border: #d0d7de; --text: #1f2328; }
  svg { --tone-0: #0969da; --tone-1: #d1570a; }
  @media (prefers-color-scheme: dark) {
    svg { --page: #0d1117; --quiet: #9da7b1; --grid: #262c34; --border: #30363d; --text: #e6edf3; }
    svg { --tone-0: #58a6ff; --tone-1: #ffa657; }
  }
  text { font: 11px sans-serif; fill: var(--quiet); } .title { font: 600 13px sans-serif; fill: var(--text); }
  .page { fill: var(--page); } .background { fill: none; } .axis.y text { text-anchor: end; }
  .axis.x text { text-anchor: middle; } .guide { stroke: var(--grid); fill: none; }
  .axis > .line { stroke: var(--border); fill: none; }
  .series .line, .key { fill: none; stroke-width: 1.6; stroke: currentColor; }
  .dot { fill: currentColor; stroke: none; }
  .dashed .line, .dashed.key { stroke-dasharray: 5 3; }
  .tone-0 { color: var(--tone-0); } .tone-1 { color: var(--tone-1); }
"""


@dataclass(frozen=True)
class Panel:
    """A chart: its title, the run it is of, and the metric of each curve by the curve's name."""

    title: str
    run: str
    curves: dict[str, str]


PANELS = (
    Panel("Offline: loss", "offline", {"training": "loss", "held out": "eval/loss"}),
    Panel("Offline: accuracy", "offline", {"training": "rewards/accuracies", "held out": "eval/rewards/accuracies"}),
    Panel("Online: mean score", "online", {"responses": "objective/scores"}),
)


def keep_metrics(run: str, folder: Path) -> None:
    """Copy what is drawn of a run's metrics.jsonl to docs/curves."""
    names = ["step", *(name for panel in PANELS if panel.run == run for name in panel.curves.values())]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{name: row[name] for name in names if name in row} for row in map(json.loads, lines)]
    METRICS.mkdir(exist_ok=True)
    (METRICS / f"{run}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def digest() -> str:
    """Digest of this script and of the metrics that it draws."""
    files = [Path(__file__), *(METRICS / f"{run}.jsonl" for run in sorted({panel.run for panel in PANELS}))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def draw() -> str:
    """The picture as SVG text."""
    width, height = len(PANELS) * (WIDTH + MARGIN) + MARGIN, TOP + HEIGHT + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" data-digest="{digest()}" '
        f'aria-label="{escape("; ".join(panel.title for panel in PANELS))}, over the steps of two runs">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        *(_panel(panel, MARGIN + number * (WIDTH + MARGIN)) for number, panel in enumerate(PANELS)),
    ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: int) -> str:
    by_name = read_curves(METRICS / f"{panel.run}.jsonl").by_name
    series = [
        Series(name, number, is_dashed=number > 0, points=by_name[metric].points())
        for number, (name, metric) in enumerate(panel.curves.items())
    ]
    chart = draw_lines(panel.title, series, (WIDTH, HEIGHT))
    placed = chart.replace("<svg", f'<svg x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}"', 1)
    title = f'<text class="title" x="{left + 6}" y="{TOP - 8}">{escape(panel.title)}</text>'
    keys = [_key(one, left + 40 + 110 * number) for number, one in enumerate(series)]
    return "\n".join([title, placed, *keys])


def _key(series: Series, left: int) -> str:
    """A line of the legend: the look of a curve and its name."""
    middle = TOP + HEIGHT + BOTTOM // 2
    line = f'<path class="key {series.look}" d="M{left} {middle - 4} h22"/>'
    return f'{line}<text x="{left + 28}" y="{middle}">{escape(series.name)}</text>'


if __name__ == "__main__":
    for run, folder in zip(("offline", "online"), sys.argv[1:], strict=False):
        keep_metrics(run, Path(folder))
    PICTURE.write_text(draw(), encoding="utf-8")
