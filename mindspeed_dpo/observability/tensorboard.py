"""TensorBoard tracker. The only module that imports TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

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
        with write_errors(self._folder):
            self._writer.close()  # type: ignore[no-untyped-call]
