"""A checkpoint whose files are being written; it counts as a checkpoint only once it is finished.

The writing thread uses neither collectives nor the device. The main thread polls whether it is done.
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
from mindspeed_dpo.engine.lora_checkpoint import export_peft
from mindspeed_dpo.engine.rollout_checkpoint import write_rollouts


def write_file(path: Path, content: io.BytesIO) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content.getbuffer())
        file.flush()
        os.fsync(file.fileno())


class BackgroundWriter:
    """Writes in-memory files in a thread and releases each as soon as it is written."""

    def __init__(self, contents: dict[Path, io.BytesIO]) -> None:
        self._contents = contents
        self._error: Exception | None = None
        # A daemon, so that the process can end without it: an unfinished file is not part of a checkpoint.
        self._thread = threading.Thread(target=self._write, name="checkpoint writer", daemon=True)
        self._thread.start()

    def is_done(self, wait: bool) -> bool:
        """Return whether all files are written.

        Args:
            wait: Block until they are.

        Raises:
            Exception: The error that the thread met.
        """
        self._thread.join(None if wait else 0)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def _write(self) -> None:
        try:
            while self._contents:
                write_file(*self._contents.popitem())
        except Exception as error:  # re-raised in the main thread by `is_done`
            self._error = error


@dataclass(frozen=True)
class PendingCheckpoint:
    """A checkpoint whose files are written or being written.

    Attributes:
        root: The save folder.
        partial: Temporary folder of its files until it is finished.
        metadata: Content of its metadata file.
        prefetched: Rollouts already sampled for the next step, if any.
        writing: Writer of this process's files; None once they are written.

    Example:
        Iteration 10 of a run with `save: ckpt`: `root=ckpt`, `partial=ckpt/iter_0000010.partial`,
        `metadata={"iteration": 10, ...}`; after `finish` its folder is `ckpt/iter_0000010`.
    """

    root: Path
    partial: Path
    metadata: Mapping[str, Any]
    prefetched: RolloutBatch | None = None
    writing: BackgroundWriter | None = None

    @property
    def folder(self) -> Path:
        """Folder of the finished checkpoint."""
        return files.iteration_dir(self.root, self.metadata["iteration"])

    def is_written(self, wait: bool) -> bool:
        """Return whether this process's files are written, or block until they are if `wait` is set.

        Raises:
            CheckpointError: A file could not be written.
        """
        try:
            return self.writing is None or self.writing.is_done(wait)
        except (OSError, ValueError, RuntimeError) as error:
            raise files.CheckpointError(
                f"{self.folder} could not be written ({error}); earlier checkpoints are complete"
            ) from error

    def finish(self) -> None:
        """Turn it into the newest checkpoint; called by one process after all have written their files."""
        if self.metadata.get("adapters"):
            export_peft(self.partial, self.metadata["adapters"])
        if self.prefetched is not None:
            write_rollouts(self.partial, self.prefetched)
        files.finish(self.root, self.metadata["iteration"], self.metadata)
