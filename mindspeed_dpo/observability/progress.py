"""The progress line of each step in the log, and its short row on a terminal.

The line has the format that tools for MindSpeed-LLM parse: `iteration: 3 / 100 | actor/pg_loss : 0.6931 | …`, zeros
included; trackers use the names in `metric_names.py`. It is what a pipe gets too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from mindspeed_dpo.observability.live_status import LiveStatus, live_status
from mindspeed_dpo.observability.logs import CONSOLE_ONLY, FILE_ONLY
from mindspeed_dpo.observability.metric_names import EVAL_PREFIX, metric
from mindspeed_dpo.observability.phase import duration
from mindspeed_dpo.observability.step_rows import OFFLINE_COLUMNS, Column, StepRows

logger = logging.getLogger(__name__)

HEADLINE_METRICS = (
    "loss",
    "objective/scores",
    "objective/kl",
    "val/contain_eos_token",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "learning_rate",
    "grad_norm",
    "pairs_per_s",
    "rollout_tokens_per_s",
    "tokens_per_s",
)
STEP_TIME_METRIC = "timing/all"


def format_line(
    step: int, total_steps: int, metrics: Mapping[str, float], *, eta_s: float | None = None, legacy_keys: bool = False
) -> str:
    """One line: the step, the metrics (those of `HEADLINE_METRICS` first, `timing/all` last), the remaining time.

    Args:
        step: Finished step, from 1.
        total_steps: Total number of steps of the run.
        metrics: Values by the names of `metric_names.py`; every one is printed.
        eta_s: Seconds until the run ends, or None to leave it out.
        legacy_keys: Print MindSpeed-LLM's key where it differs, e.g. `actor/pg_loss` for `loss`.

    Raises:
        ValueError: A name is not in the table of metrics.
    """
    names = [name for name in HEADLINE_METRICS if name in metrics]
    names += [name for name in metrics if name not in HEADLINE_METRICS and name not in ("step", STEP_TIME_METRIC)]
    names += [STEP_TIME_METRIC] if STEP_TIME_METRIC in metrics else []
    parts = [f"iteration: {step} / {total_steps}"]
    for name in names:
        row = metric(name)
        # MindSpeed-LLM has no evaluation, and its key must not occur twice in a line.
        key = row.legacy if legacy_keys and row.legacy and not name.startswith(EVAL_PREFIX) else name
        parts.append(f"{key} : {metrics[name]:{row.form}}")
    if eta_s is not None:
        parts.append(f"eta : {duration(eta_s)}")
    return " | ".join(parts)


class ProgressLine:
    """Tracker that logs one line per step, and on a terminal prints one row and counts the steps below it.

    Args:
        total_steps: Total number of steps of the run.
        completed_steps: Steps already done before this run starts.
        interval: Number of steps between two lines; the first and the last are always printed.
        legacy_keys: As in `format_line`.
        columns: Columns of the rows.
        status: The live status, which knows whether there is a terminal.
        clock: Seconds from any start, for the remaining time.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        completed_steps: int = 0,
        interval: int = 1,
        legacy_keys: bool = False,
        columns: Sequence[Column] = OFFLINE_COLUMNS,
        status: LiveStatus = live_status,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._done_before, self._interval = total_steps, completed_steps, interval
        self._legacy_keys, self._clock, self._status = legacy_keys, clock, status
        self._start_s = clock()
        self._rows = StepRows(total_steps, columns)
        self._open = ExitStack()
        self._phase = self._open.enter_context(status.phase("training", total_steps, completed_steps))
        # Each step has a line of its own.
        self._phase.has_lines = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print the line of a step, and the row of it.

        Raises:
            ValueError: A name is not in the table of metrics.
        """
        self._phase.set_done(step)
        shown = {name: value for name, value in metrics.items() if _is_headline(name)}
        eta_s, width = self._eta_s(step), self._status.width
        line = format_line(step, self._total, shown, eta_s=eta_s, legacy_keys=self._legacy_keys)
        is_due = step % self._interval == 0 or step in (self._done_before + 1, self._total)
        if not is_due:
            return
        logger.info(line, extra=FILE_ONLY if width is not None else {})
        if width is not None:
            for row in self._rows.rows_of(step, metrics, eta_s, width):
                logger.info("%s", row, extra=CONSOLE_ONLY)

    def close(self) -> None:
        """End the count of steps."""
        self._open.close()

    def _eta_s(self, step: int) -> float:
        """Return the remaining steps times the mean duration of the steps of this run so far."""
        done = max(step - self._done_before, 1)
        return max(self._total - step, 0) * (self._clock() - self._start_s) / done


def _is_headline(name: str) -> bool:
    """Return whether a metric, possibly of an evaluation set, is one of the headlines."""
    base = name.removeprefix(EVAL_PREFIX)
    return (
        name == STEP_TIME_METRIC
        or base in HEADLINE_METRICS
        or (base != name and base.partition("/")[2] in HEADLINE_METRICS)
    )
