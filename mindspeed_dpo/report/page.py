"""Puts the page together and writes it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mindspeed_dpo.report.page_parts import (
    MAX_TEXT,
    chart_figures,
    differing_settings,
    distinct_names,
    histogram_figures,
    metric_rows,
    sample_groups,
)
from mindspeed_dpo.report.run_folder import RunRecord, read_run
from mindspeed_dpo.storage.atomic_write import write_text_atomically
from mindspeed_dpo.storage.write_errors import write_errors
from mindspeed_dpo.untrusted.errors import shortened

REPORT_FILE = "report.html"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
_EXAMPLES = 4
_NOT_HTML = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
"""Characters that HTML or UTF-8 do not have, which responses may."""
_HEADLINE_SETTINGS = {
    "model": ("actor_rollout_ref.actor_rollout.load", "actor_rollout_ref.actor_rollout.lora_r"),
    "data": ("actor_rollout_ref.actor_rollout.data_path", "training.eval_data_path", "training.split"),
}


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Write the page of one run, or of several beside each other.

    Raises:
        NotARunError: A folder holds no run.
        OSError: The page cannot be written.
    """
    page = render([read_run(folder) for folder in folders])
    with write_errors(output):
        write_text_atomically(output, page)


def render(runs: Sequence[RunRecord]) -> str:
    """Return the page: HTML without scripts and references, with everything from outside escaped."""
    # Autoescaping: responses, prompts and settings may be any text, also HTML.
    environment = Environment(
        loader=PackageLoader("mindspeed_dpo.report", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(shortened=partial(shortened, limit=MAX_TEXT), clock=_clock, duration=_duration)
    names = distinct_names(runs)
    style = environment.get_template("page.css").render()
    text: str = environment.get_template("page.html").render(
        style=style,
        names=names,
        runs=[_about(run, name) for run, name in zip(runs, names, strict=True)],
        groups=chart_figures(runs, names),
        differences=differing_settings(runs) if len(runs) > 1 else [],
        is_comparison=len(runs) > 1,
        now=_clock(time.time()),
    )
    return _NOT_HTML.sub("\N{REPLACEMENT CHARACTER}", text)


def _about(run: RunRecord, name: str) -> dict[str, Any]:
    curves, total = run.curves, run.total_steps
    examples = list(run.margins.examples) if run.margins else []
    return {
        "name": name,
        "record": run,
        "state": f"step {curves.last_step:,} of {total:,}" if total else f"step {curves.last_step:,}",
        "share": min(curves.last_step / total, 1) if total else 0,
        "headlines": {title: _settings(run, keys) for title, keys in _HEADLINE_SETTINGS.items()},
        "num_warnings": len(run.warnings) + len(run.facts.notes) + len(run.unreadable),
        "metrics": metric_rows(run),
        "histograms": histogram_figures(run),
        "samples": sample_groups(run),
        "smallest": examples[: min(_EXAMPLES, len(examples) // 2)],
        "largest": examples[-min(_EXAMPLES, len(examples) // 2) :] if len(examples) > 1 else [],
    }


def _settings(run: RunRecord, keys: Sequence[str]) -> str:
    values = [run.settings[key] for key in keys if run.settings.get(key, "null") not in ("null", "0")]
    return " · ".join(values) or "–"


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else time.strftime(f"{TIME_FORMAT} UTC", time.gmtime(seconds))


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
