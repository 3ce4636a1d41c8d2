"""A checkpoint that is on its way: its files are being written, and it is not one until that is finished.

The thread that writes talks to nobody: no collective, no device. Whether it is done is asked from the main flow.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.engine import checkpoint_files as files
from mindspeed_dpo.engine.adapter_state import export_peft
from mindspeed_dpo.engine.rollout_checkpoint import write_answers


def write_file(path: Path, content: io.BytesIO) -> None:
    """Write bytes and have them on the disk."""
    with path.open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


class BackgroundWrite:
    """Writes files that lie in memory, in a thread of its own, and lets go of each as soon as it is written."""

    def __init__(self, contents: dict[Path, io.BytesIO]) -> None:
        self._contents = contents
        self._error: Exception | None = None
        # A process that is ended need not wait for it: what is half written is no checkpoint.
        self._thread = threading.Thread(target=self._write, name="checkpoint writer", daemon=True)
        self._thread.start()

    def is_done(self, wait: bool) -> bool:
        """Whether all is written.

        Args:
            wait: Until it is.

        Raises:
            Exception: It could not be; whatever the thread met.
        """
        self._thread.join(None if wait else 0)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def _write(self) -> None:
        try:
            while self._contents:
                write_file(*self._contents.popitem())
        except Exception as error:  # nobody else would see it
            self._error = error


@dataclass(frozen=True)
class BegunSave:
    """A checkpoint whose files are being written, or are.

    Attributes:
        root: The save folder.
        partial: Where its files lie until it is finished.
        metadata: What it will say about itself.
        ahead: Answers that the next step learns from, where they are there already.
        writing: Of this process's files; None where they are written.
    """

    root: Path
    partial: Path
    metadata: Mapping[str, Any]
    ahead: RolloutBatch | None = None
    writing: BackgroundWrite | None = None

    @property
    def folder(self) -> Path:
        """Where it will lie."""
        return files.iteration_dir(self.root, self.metadata["iteration"])

    def is_written(self, wait: bool) -> bool:
        """Whether this process's files are, or `wait` until they are.

        Raises:
            CheckpointError: They could not be written.
        """
        try:
            return self.writing is None or self.writing.is_done(wait)
        except (OSError, ValueError, RuntimeError) as error:
            raise files.CheckpointError(
                f"{self.folder} could not be written ({error}); checkpoints before it are whole"
            ) from error

    def finish(self) -> None:
        """Make it the newest checkpoint, once the files of all processes are written; by one process."""
        if self.metadata.get("adapters"):
            export_peft(self.partial, self.metadata["adapters"])
        if self.ahead is not None:
            write_answers(self.partial, self.ahead)
        files.finish(self.root, self.metadata["iteration"], self.metadata)
