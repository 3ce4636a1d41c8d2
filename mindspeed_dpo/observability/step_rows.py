"""Rows of steps for a terminal: one short line each, under a heading, in columns that fit the width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mindspeed_dpo.observability.chart_groups import base_name
from mindspeed_dpo.observability.phase import duration

HEADING_INTERVAL = 20
"""Rows between two headings."""
STEP, ETA = "step", "eta"
_STEP_WIDTH = 9


@dataclass(frozen=True)
class Column:
    """A column, for example `Column("margin", "rewards/margins", 9)`.

    Attributes:
        head: Its heading.
        metric: The metric, without the prefix of evaluations.
        width: Columns of the terminal, the space before it included.
        form: Format of a value.
        rank: Columns with a high rank are left out first where the terminal is narrow.
    """

    head: str
    metric: str
    width: int
    form: str = ".4f"
    rank: int = 0


_LOSS = Column("loss", "loss", 9)
_RATE = Column("lr", "learning_rate", 10, ".2e", rank=3)
_SPEED = Column("pairs/s", "pairs_per_s", 9, ".1f", rank=4)
_ETA = Column("eta", ETA, 10, rank=1)
_WIDE = (Column("norm", "grad_norm", 9, ".3f", rank=5), Column("tokens/s", "tokens_per_s", 10, ".0f", rank=6))
OFFLINE_COLUMNS = (
    _LOSS,
    Column("margin", "rewards/margins", 10),
    Column("accuracy", "rewards/accuracies", 9, ".3f", rank=2),
    _RATE,
    _SPEED,
    _ETA,
    *_WIDE,
)
ONLINE_COLUMNS = (
    _LOSS,
    Column("score", "objective/scores", 9),
    Column("KL", "objective/kl", 9),
    Column("length", "response_length/mean", 8, ".1f", rank=2),
    Column("win", "win_rate", 7, ".3f", rank=2),
    _RATE,
    _SPEED,
    _ETA,
    *_WIDE,
)
_IN_EVALUATIONS = {"objective/scores": "reward/score/mean"}
"""Metrics of training whose counterpart in evaluations has another name."""


class StepRows:
    """Formats steps and their evaluations as rows of a table.

    Args:
        total_steps: Total number of steps of the run.
        columns: Columns after that of the step, of which those that fit are shown.
    """

    def __init__(self, total_steps: int, columns: Sequence[Column]) -> None:
        self._total, self._columns = total_steps, columns
        self._num_rows, self._width = 0, 0
        self._step_width = max(_STEP_WIDTH, 2 * len(str(total_steps)) + 1)

    def rows_of(self, step: int, metrics: Mapping[str, float], eta_s: float, width: int) -> list[str]:
        """Return the row of a step, with a heading before it if one is due and a row for each evaluation after it.

        Args:
            step: Finished step; 0 has evaluations only.
            metrics: Its metrics.
            eta_s: Seconds until the run ends.
            width: Columns of the terminal.
        """
        columns = self._fitting(width)
        left = duration(eta_s) if len(duration(eta_s)) < _ETA.width else f"{eta_s / 3600:.0f} h"
        rows = [self._row(f"{step}/{self._total}", metrics, columns, {ETA: left})] if step else []
        rows += [self._row(label, values, columns, {}) for label, values in _evaluations(metrics)]
        is_due = self._num_rows % HEADING_INTERVAL == 0 or width != self._width
        self._num_rows, self._width = self._num_rows + 1, width
        return [self._heading(columns), *rows] if is_due else rows

    def _fitting(self, width: int) -> list[Column]:
        columns = list(self._columns)
        while columns and self._step_width + sum(column.width for column in columns) > width:
            columns.remove(max(columns, key=lambda column: column.rank))
        return columns

    def _heading(self, columns: Sequence[Column]) -> str:
        return STEP.rjust(self._step_width) + "".join(column.head.rjust(column.width) for column in columns)

    def _row(
        self, label: str, metrics: Mapping[str, float], columns: Sequence[Column], texts: Mapping[str, str]
    ) -> str:
        cells = [texts.get(column.metric) or _cell(metrics.get(column.metric), column) for column in columns]
        start = label if len(label) <= self._step_width else f"{label[: self._step_width - 1]}…"
        padded = (cell.rjust(column.width) for cell, column in zip(cells, columns, strict=True))
        return (start.rjust(self._step_width) + "".join(padded)).rstrip()


def _cell(value: float | None, column: Column) -> str:
    """Format a value; one that is too long for its column in fewer digits."""
    if value is None:
        return ""
    forms = (column.form, ".1f", ".2e", ".0e")
    texts = [format(value, form) for form in forms]
    return next((text for text in texts if len(text) < column.width), texts[-1])


def _evaluations(metrics: Mapping[str, float]) -> list[tuple[str, dict[str, float]]]:
    """Return the label of each evaluation set that has a metric of a column, and its metrics as training names them."""
    shown = {column.metric for column in (*OFFLINE_COLUMNS, *ONLINE_COLUMNS)} | set(_IN_EVALUATIONS.values())
    by_label: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        label, base = base_name(name)
        if label and base in shown:
            by_label.setdefault(label, {})[base] = value
    return [(label, _as_in_training(values)) for label, values in by_label.items()]


def _as_in_training(metrics: Mapping[str, float]) -> dict[str, float]:
    named = {old: metrics[new] for old, new in _IN_EVALUATIONS.items() if new in metrics}
    return {**metrics, **named}
