"""How checkpoint files are written: megatron-core's format, by this process itself, at once or into memory first.

The library's own writer starts a manager and forked writers on every rank, which outlive a killed rank and do not mix
with threads that a worker has running. The files are the same.
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
    """Synchronous save of the `torch_dist` format; a collective over all ranks."""

    def __init__(self) -> None:
        super().__init__("torch_dist", 1)

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str | Path) -> None:
        """Write this rank's main replicas and, on rank 0, the metadata."""
        described, _, _ = _replace_state_dict_keys_with_sharded_keys(sharded_state_dict, self.keep_only_main_replica)
        dcp.save(
            mcore_to_pyt_state_dict(described, False),
            storage_writer=self.storage_writer(checkpoint_dir),
            planner=MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False),
        )

    def storage_writer(self, folder: str | Path) -> dcp.FileSystemWriter:
        """Where the bytes go."""
        return dcp.FileSystemWriter(folder, thread_count=1)


class InMemorySave(InProcessSave):
    """The same save with the files, byte for byte, in this process's memory; whoever made it writes them.

    Places and lengths of tensors in the files are known at once, so nothing has to be agreed on after writing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles()

    def storage_writer(self, folder: str | Path) -> dcp.FileSystemWriter:
        """Into `files`."""
        writer = dcp.FileSystemWriter(folder, thread_count=1, sync_files=False)
        writer.fs = self.files
        return writer


class KeptBytes(io.BytesIO):
    """Bytes that can be read after whoever filled them has closed them."""

    def close(self) -> None:
        """Nothing to give back."""


class MemoryFiles(FileSystem):
    """Files in memory, as far as saving needs them.

    Attributes:
        contents: Bytes by path.
    """

    def __init__(self) -> None:
        self.contents: dict[Path, io.BytesIO] = {}

    @contextmanager
    def create_stream(self, path: Location, mode: str) -> Iterator[io.IOBase]:  # type: ignore[override]
        """A new file."""
        self.contents[Path(path)] = stream = KeptBytes()
        yield stream

    def rename(self, path: Location, new_path: Location) -> None:
        """Give a file another path."""
        self.contents[Path(new_path)] = self.contents.pop(Path(path))

    def exists(self, path: Location) -> bool:
        """Whether there is a file."""
        return Path(path) in self.contents

    def rm_file(self, path: Location) -> None:
        """Remove a file."""
        del self.contents[Path(path)]
