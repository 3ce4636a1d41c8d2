"""TensorBoard tracker. The only module that imports TensorBoard.

Tags have the groups of the report, numbered because TensorBoard sorts them by name: `1 Preferences/loss`. Training and
each evaluation set are runs of their own, in folders beside each other: TensorBoard draws the same tag of several runs
in one chart.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mindspeed_dpo.observability.chart_groups import GROUPS, OTHER, base_name
from mindspeed_dpo.observability.metric_names import metric
from mindspeed_dpo.storage.write_errors import write_errors

TRAINING = "train"
"""Folder of the metrics of training; those of evaluations have the name of their set."""
_COMPARED = ("loss", "rewards/margins", "rewards/accuracies", "objective/scores")
"""Metrics beside the settings of a run."""


class TensorBoard:
    """Tracker that writes one scalar curve per metric and set, texts, and the settings of the run.

    Args:
        folder: Folder of the runs.
        completed_steps: Steps already done before this run starts; later points of an earlier run are hidden.
        settings: Settings of the run by name, plain values.
    """

    def __init__(
        self, folder: str | Path, *, completed_steps: int = 0, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._purge_step = completed_steps + 1 if completed_steps else None
        self._folder = Path(folder)
        self._hook = threading.excepthook
        threading.excepthook = self._report_thread
        self._writers: dict[str, SummaryWriter] = {}
        with write_errors(folder):
            self._write_settings(settings or {})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve.

        Raises:
            ValueError: A name is not in the table of metrics.
            WriteError: An event file cannot be written.
        """
        with write_errors(self._folder):
            for name, value in metrics.items():
                metric(name)
                of_set, base = base_name(name)
                self._writer(of_set or TRAINING).add_scalar(tag_of(base), value, step)  # type: ignore[no-untyped-call]
            self._flush()

    def log_text(self, step: int, name: str, text: str) -> None:
        """Add a text in Markdown.

        Raises:
            WriteError: The event file cannot be written.
        """
        with write_errors(self._folder):
            self._writer(TRAINING).add_text(name, text, step)  # type: ignore[no-untyped-call]
            self._flush()

    def close(self) -> None:
        """Flush and close the event files.

        Raises:
            WriteError: One cannot be written.
        """
        try:
            with write_errors(self._folder):
                for writer in self._writers.values():
                    writer.close()  # type: ignore[no-untyped-call]
        finally:
            threading.excepthook = self._hook

    def _writer(self, run: str) -> SummaryWriter:
        if run not in self._writers:
            folder = str(self._folder / run)
            self._writers[run] = SummaryWriter(folder, purge_step=self._purge_step)  # type: ignore[no-untyped-call]
        return self._writers[run]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()  # type: ignore[no-untyped-call]

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        # TensorBoard would show true as 1.
        texts = {key: str(value).lower() if isinstance(value, bool) else value for key, value in settings.items()}
        values = {key: value for key, value in texts.items() if isinstance(value, (int, float, str))}
        file: Any = self._writer(TRAINING).file_writer
        if values:
            compared = dict.fromkeys(map(tag_of, _COMPARED), 0.0)
            for summary in hparams(values, compared):  # type: ignore[no-untyped-call]
                file.add_summary(summary)

    def _report_thread(self, failure: threading.ExceptHookArgs) -> None:
        """Print the traceback of a thread, but not that of TensorBoard's own, whose error the next call raises."""
        is_own = type(failure.thread).__module__ == event_file_writer.__name__
        if not (is_own and isinstance(failure.exc_value, OSError)):
            self._hook(failure)


@cache
def tag_of(base: str) -> str:
    """Return the tag of a metric, which begins with number and title of its group."""
    titles = {name: title for title, charts in GROUPS.items() for chart in charts for name in chart.metrics}
    title = titles.get(base, OTHER)
    return f"{[*GROUPS, OTHER].index(title) + 1} {title}/{base}"
