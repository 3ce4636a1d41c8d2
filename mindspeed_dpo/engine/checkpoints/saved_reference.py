"""The part of a checkpoint that a reference on processes of its own has written. Imports neither torch nor megatron."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError
from mindspeed_dpo.storage.digests import FileDigest

REFERENCE_FOLDER = "reference"
"""Folder of its weights within a checkpoint."""


@dataclass(frozen=True)
class SavedReference:
    """Weights of the updated reference, on disk beside the checkpoint that they will be part of.

    Example:
        SavedReference("out/checkpoints/reference_0000010.partial", {"__0_0.distcp": FileDigest(...)})

    Attributes:
        folder: Folder that holds them until then.
        digests: Digests of its files by name, as far as they were computed while writing.
    """

    folder: str
    digests: Mapping[str, FileDigest] = field(default_factory=dict)

    @classmethod
    def joined(cls, of_ranks: list[SavedReference]) -> SavedReference:
        """Return what all ranks have written into one folder."""
        digests = {name: digest for part in of_ranks for name, digest in part.digests.items()}
        return cls(of_ranks[0].folder, digests)

    def move_into(self, checkpoint: Path) -> dict[str, FileDigest]:
        """Make the weights part of an unfinished checkpoint; return the digests by path within it.

        Raises:
            CheckpointError: The folder is not visible from this node.
            OSError: It cannot be moved.
        """
        if not Path(self.folder).is_dir():
            raise CheckpointError(
                f"{self.folder} is not visible from this node; set save to a folder on storage shared by all nodes"
            )
        os.replace(self.folder, checkpoint / REFERENCE_FOLDER)
        return {f"{REFERENCE_FOLDER}/{name}": digest for name, digest in self.digests.items()}
