"""The tables of docs/numerics.md and its Chinese page: how far runs are from float64 and from TRL's recordings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.recordings.distances import UPDATE
from tests.recordings.files import in_float64
from tests.support.recorded_layouts import EXPERT_LAYOUTS, LAYOUTS, layouts_of
from tests.support.recorded_runs import AUX_LOSS, COMPARED
from tests.support.scripts import load_script

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs"
CHINESE = {
    "Models with experts, first step": "带专家的模型，第一步",
    "Models with experts, ten steps": "带专家的模型，十步",
    "Models with experts, update of the weights:": "带专家的模型，权重的更新量：",
    "First step": "第一步",
    "Ten steps": "十步",
    ", logged values:": "，记录值：",
    "Update of the weights:": "权重的更新量：",
    "| case |": "| 用例 |",
}
"""Words of the tables, the longer ones first."""
TRANSLATIONS = load_script(DOCUMENTS / "check_translations.py")
START, END = "<!-- errors: written by `make numerics` -->", "<!-- end of errors -->"
AllErrors = dict[str, dict[str, Any]]
"""By case and layout: what `matrix.errors` gives."""


def write_tables(errors: AllErrors) -> None:
    """Put the tables between the marks of both pages; the Chinese one remains current if it was."""
    english, chinese = DOCUMENTS / "numerics.md", DOCUMENTS / "numerics.zh.md"
    was_current = TRANSLATIONS.is_current(chinese)
    text = tables(errors)
    _replace(english, text)
    _replace(chinese, in_chinese(text))
    if was_current:
        TRANSLATIONS.write_stamp(chinese)


def _replace(page: Path, text: str) -> None:
    before, rest = page.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")


def written(name: str) -> str:
    """Return the tables that a page has."""
    return (DOCUMENTS / name).read_text(encoding="utf-8").split(START)[1].split(END)[0].strip()


def in_chinese(text: str) -> str:
    """Return tables with their words in Chinese."""
    for english, chinese in CHINESE.items():
        text = text.replace(english, chinese)
    return text


def tables(errors: AllErrors) -> str:
    """Three tables for dense models and three for those with experts: the first step, ten steps, the update."""
    parts = []
    for kind, layouts in (("", LAYOUTS), ("Models with experts, ", EXPERT_LAYOUTS)):
        some = {case: one for case, one in errors.items() if layouts_of(case) is layouts}
        for title, tier in (("First step, logged values", "first"), ("Ten steps, logged values", "run")):
            parts.append(
                f"{_title(kind, title)}:\n\n{_table(some, layouts, lambda one, tier=tier: _logged(one[tier]))}"
            )
        update = _table(some, layouts, lambda one: one["run"].get(UPDATE))
        parts.append(f"{_title(kind, 'Update of the weights')}:\n\n{update}")
    return "\n\n".join(parts)


def _title(kind: str, title: str) -> str:
    return f"{kind}{title[0].lower()}{title[1:]}" if kind else title


def _table(errors: AllErrors, layouts: Iterable[str], figure: Any) -> str:
    layouts = list(layouts)
    lines = [f"| case | TRL | {' | '.join(layouts)} |", f"|---|---|{'---|' * len(layouts)}"]
    for case, by_layout in errors.items():
        own = figure(in_float64(case)["distance"])
        runs = [by_layout.get(layout) for layout in layouts]
        cells = [_cell(figure(one["float64"]), figure(one["recording"]), own) if one else "–" for one in runs]
        lines.append(f"| {case} | {_number(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _logged(figures: dict[str, float]) -> float:
    """The largest distance of those values that a run of ours logs as TRL does."""
    return max(figures[name] for name in (*COMPARED, AUX_LOSS) if name in figures)


def _cell(from_float64: float, from_recording: float | None, own: float | None) -> str:
    """Our error, in bold where it is larger than TRL's, and the distance from the recording."""
    is_larger = own is not None and float(_number(from_float64)) > float(_number(own))
    text = f"**{_number(from_float64)}**" if is_larger else _number(from_float64)
    return text if from_recording is None else f"{text} / {_number(from_recording)}"


def _number(value: float | None) -> str:
    """Two digits, such as 1.3e-6; a dash where there is none."""
    if value is None:
        return "–"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"
