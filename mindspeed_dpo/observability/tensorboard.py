"""TensorBoard tracker. The only module that imports TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter

from mindspeed_dpo.observability.metric_names import metric
from mindspeed_dpo.storage.write_errors import write_errors


class TensorBoard:
    """Tracker that writes one scalar curve per metric, under the metric's own name.

    Args:
        folder: Folder of the event files.
        completed_steps: Steps already done before this run starts; later points of an earlier run are hidden.
    """

    def __init__(self, folder: str | Path, *, completed_steps: int = 0) -> None:
        purge_step = completed_steps + 1 if completed_steps else None
        self._folder = folder
        self._hook = threading.excepthook
        threading.excepthook = self._report_thread
        with write_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=purge_step)  # type: ignore[no-untyped-call]

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve.

        Raises:
            ValueError: A name is not in the table of metrics.
            WriteError: The event file cannot be written.
        """
        with write_errors(self._folder):
            for name, value in metrics.items():
                metric(name)
                self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]
            self._writer.flush()  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Flush and close the event file.

        Raises:
            WriteError: It cannot be written.
        """
        try:
            with write_errors(self._folder):
                self._writer.close()  # type: ignore[no-untyped-call]
        finally:
            threading.excepthook = self._hook

    def _report_thread(self, failure: threading.ExceptHookArgs) -> None:
        """Print the traceback of a thread, but not that of TensorBoard's own, whose error the next call raises."""
        is_own = type(failure.thread).__module__ == event_file_writer.__name__
        if not (is_own and isinstance(failure.exc_value, OSError)):
            self._hook(failure)
