"""Writers of megatron-core's `torch_dist` format that stay within the process, writing to disk or to memory.

megatron-core's own writer starts a manager and forked writers on every rank; these outlive a killed rank and forking
is unsafe beside the threads of a worker. The files are identical.
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

Location = str | os.PathLike[str]


class InProcessSave(TorchDistSaveShardedStrategy):
    """Saves the `torch_dist` format synchronously; a collective over all ranks."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

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
        return dcp.FileSystemWriter(folder, thread_count=1)


class InMemorySave(InProcessSave):
    """Saves the same files into this process's memory; the caller writes them to disk.

    Offsets and lengths of the tensors are then available, so no collective is needed after writing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles()

    def storage_writer(self, folder: str | Path) -> dcp.FileSystemWriter:
        """Return a writer that fills `files`."""
        writer = dcp.FileSystemWriter(folder, thread_count=1, sync_files=False)
        writer.fs = self.files
        return writer


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
