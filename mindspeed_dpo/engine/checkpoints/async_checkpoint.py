"""Asynchronous checkpoints: files are written in the background, and the checkpoint is valid only once it is finished.

The writing thread uses neither collectives nor the device. The main thread polls whether it is done.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.engine.checkpoints import checkpoint_commit
from mindspeed_dpo.engine.checkpoints import tracker_and_completeness as files
from mindspeed_dpo.engine.checkpoints.lora_checkpoint import export_peft
from mindspeed_dpo.engine.checkpoints.rollout_checkpoint import write_rollouts
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.storage.digesting_file import DigestingFile
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.storage.write_errors import write_failure


def write_file(path: Path, content: io.BytesIO) -> FileDigest:
    """Write a file, flush it to the disk and return its digest."""
    with DigestingFile(path) as file:
        file.write(content.getbuffer())
        file.sync()
    return file.digest


class BackgroundWriter:
    """Writes in-memory files in a thread and releases each as soon as it is written.

    Attributes:
        digests: Digest of each file that is written, by name.
    """

    def __init__(self, contents: dict[Path, io.BytesIO]) -> None:
        self._contents = contents
        self.digests: dict[str, FileDigest] = {}
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
                path, content = self._contents.popitem()
                self.digests[path.name] = write_file(path, content)
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
        written: Digests by name of the files that this process wrote before training went on.
        reference: Weights of the updated reference, where processes of its own have written them.

    Example:
        Iteration 10 of a run with `save: ckpt`: `root=ckpt`, `partial=ckpt/iter_0000010.partial`,
        `metadata={"iteration": 10, ...}`; after `finish` its folder is `ckpt/iter_0000010`.
    """

    root: Path
    partial: Path
    metadata: Mapping[str, Any]
    prefetched: RolloutBatch | None = None
    writing: BackgroundWriter | None = None
    written: Mapping[str, FileDigest] = field(default_factory=dict)
    reference: SavedReference | None = None

    @property
    def digests(self) -> dict[str, FileDigest]:
        """Digests by name of the files that this process has written."""
        return {**self.written, **(self.writing.digests if self.writing else {})}

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
        except OSError as error:
            raise files.CheckpointError(write_failure(self.folder, error) + files.EARLIER_ARE_COMPLETE) from error
        except (ValueError, RuntimeError) as error:
            raise files.CheckpointError(
                f"{self.folder} cannot be written: {error}{files.EARLIER_ARE_COMPLETE}"
            ) from error

    def finish(self, digests: Mapping[str, FileDigest]) -> None:
        """Commit it as the newest checkpoint; called by one process after all have written their files.

        Args:
            digests: Digests of the files of all processes, by name.
        """
        digests = dict(digests)
        if self.metadata.get("adapters"):
            digests.update(export_peft(self.partial, self.metadata["adapters"]))
        if self.prefetched is not None:
            digests.update(write_rollouts(self.partial, self.prefetched))
        if self.reference is not None:
            digests.update(self.reference.move_into(self.partial))
        checkpoint_commit.finish(self.root, self.metadata["iteration"], self.metadata, digests)
