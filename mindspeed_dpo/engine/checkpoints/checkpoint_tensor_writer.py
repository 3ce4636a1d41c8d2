"""Writers of megatron-core's `torch_dist` format that stay within the process, writing to disk or to memory.

megatron-core's own writer starts a manager and forked writers on every rank; these outlive a killed rank and forking
is unsafe beside the threads of a worker. The files are identical. Their digests are computed as they are written.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    TorchDistSaveShardedStrategy,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.filesystem import FileSystem

from mindspeed_dpo.storage.digesting_file import DigestingFile
from mindspeed_dpo.storage.digests import FileDigest

Location = str | os.PathLike[str]


class DigestedFiles(FileSystem):
    """Torch's `FileSystem`, which also computes the digest of every file that it writes.

    Attributes:
        digests: Digest of each file by name.
        error: The first failed write.
    """

    def __init__(self) -> None:
        self.digests: dict[str, FileDigest] = {}
        self.error: OSError | None = None

    def raise_error(self, consequence: Exception | None = None) -> None:
        """Raise the first failed write, if there is one.

        Args:
            consequence: What a library made of it.

        Raises:
            OSError: A file could not be written.
        """
        if self.error is not None:
            raise self.error from consequence

    @contextmanager
    def create_stream(self, path: Location, mode: str) -> Iterator[io.IOBase]:
        """Open a file and yield its stream."""
        if mode != "wb":
            with super().create_stream(path, mode) as plain:
                yield plain
            return
        with DigestingFile(Path(path)) as stream:
            try:
                yield stream
            finally:
                self.error = self.error or stream.error
        self.digests[Path(path).name] = stream.digest

    def rename(self, path: Location, new_path: Location) -> None:
        """Rename a file."""
        super().rename(path, new_path)
        self.digests[Path(new_path).name] = self.digests.pop(Path(path).name)


class DigestedWriter(dcp.FileSystemWriter):
    """Torch's writer, whose files have digests and whose errors name their cause."""

    def __init__(self, folder: str | Path, files: DigestedFiles) -> None:
        """Write into a folder through `files`."""
        super().__init__(folder, thread_count=1)
        self.fs = self._files = files

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Write the files of this rank.

        Raises:
            OSError: A file cannot be written; torch would report a position in its archive instead.
        """
        self._files.raise_error()
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            self._files.raise_error(error)
            raise


class InProcessSave(TorchDistSaveShardedStrategy):
    """Saves the `torch_dist` format synchronously; a collective over all ranks.

    Attributes:
        digests: Digest of each file that this rank has written, by name.
        disk_files: Creates the files on the disk.
    """

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)
        self.disk_files = DigestedFiles()

    @property
    def digests(self) -> dict[str, FileDigest]:
        """Digests of the files by name."""
        return self.disk_files.digests

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Write the tensors of which this rank is the main replica and, on rank 0, the metadata."""
        described, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        dcp.save(
            mcore_to_pyt_state_dict(described, False),
            storage_writer=self.storage_writer(checkpoint_dir),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )

    def storage_writer(self, folder: str | Path) -> dcp.FileSystemWriter:
        """Return the writer of the files."""
        return DigestedWriter(folder, self.disk_files)


class InMemorySave(InProcessSave):
    """Saves the same files into this process's memory; the caller writes them to disk.

    Offsets and lengths of the tensors are then available, so no collective is needed after writing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles()

    def storage_writer(self, folder: str | Path) -> dcp.FileSystemWriter:
        """Return a writer that fills `files`."""
        return MemoryWriter(folder, self.files, self.disk_files)


class MemoryWriter(dcp.FileSystemWriter):
    """Torch's writer, which fills files in memory after `common.pt` has been written to the disk."""

    def __init__(self, folder: str | Path, files: MemoryFiles, disk_files: DigestedFiles) -> None:
        """Write into a folder in memory."""
        super().__init__(folder, thread_count=1, sync_files=False)
        self.fs, self._disk_files = files, disk_files

    def write_data(self, plan: Any, planner: Any) -> Any:
        """Fill the files of this rank.

        Raises:
            OSError: `common.pt` could not be written.
        """
        self._disk_files.raise_error()
        return super().write_data(plan, planner)


class UnclosedBytesIO(io.BytesIO):
    """A buffer that can be read after its writer has closed it."""

    def close(self) -> None:
        """Keep the content."""


class MemoryFiles(FileSystem):
    """The part of torch's `FileSystem` that saving uses, in memory.

    Attributes:
        contents: Content of each file by path.
    """

    def __init__(self) -> None:
        self.contents: dict[Path, io.BytesIO] = {}

    @contextmanager
    def create_stream(self, path: Location, mode: str) -> Iterator[io.IOBase]:  # type: ignore[override]
        """Create a file and yield its stream."""
        self.contents[Path(path)] = stream = UnclosedBytesIO()
        yield stream

    def rename(self, path: Location, new_path: Location) -> None:
        """Move a file to another path."""
        self.contents[Path(new_path)] = self.contents.pop(Path(path))

    def exists(self, path: Location) -> bool:
        """Whether a file exists."""
        return Path(path) in self.contents

    def rm_file(self, path: Location) -> None:
        """Delete a file from memory."""
        del self.contents[Path(path)]
