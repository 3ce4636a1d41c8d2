"""Strategies with which megatron-core loads a checkpoint through this package's own readers.

Its own strategies unpickle `.metadata` and the objects of a checkpoint, which runs whatever these files name. Here the
files are read by `untrusted`, which knows no code; each rank reads the parts of the chunks that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor
from megatron.core.dist_checkpointing.strategies.base import LoadCommonStrategy, LoadShardedStrategy

from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError, recovery_advice
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.untrusted.dist_checkpoint import DistCheckpoint
from mindspeed_dpo.untrusted.errors import MalformedDataError, reraised_as
from mindspeed_dpo.untrusted.json_text import read_json_object
from mindspeed_dpo.untrusted.pickle_names import reject_foreign_objects
from mindspeed_dpo.untrusted.torch_archive import read_torch_file

COMMON_FILE, FORMAT_FILE = "common.pt", "metadata.json"
_FORMAT_KEYS = {f"{part}_backend{suffix}" for part in ("sharded", "common") for suffix in ("", "_version")}


def check_format(folder: Path) -> None:
    """Check that megatron-core's description of a checkpoint names the format that is read here.

    Raises:
        CheckpointError: It is damaged, or names another format.
    """
    with reraised_as(CheckpointError, recovery_advice(folder)):
        description = read_json_object(folder / FORMAT_FILE)
        for key, expected in (("sharded_backend", "torch_dist"), ("common_backend", "torch")):
            if description.text(key) != expected:
                raise MalformedDataError(f"{description.location}: {key} must be {expected}")
            description.integer(f"{key}_version")
        unknown = sorted(set(description) - _FORMAT_KEYS)
        if unknown:
            raise MalformedDataError(f"{description.location}: {unknown[0]!r} is not a known key")


class CommonReader(LoadCommonStrategy):
    """Reads the values that are the same on all ranks."""

    def load_common(self, checkpoint_dir: str | Path) -> dict[str, Any]:
        """Read the number of steps in `common.pt`; other values in it are not used.

        Raises:
            CheckpointError: It is damaged, or names a class.
        """
        file = Path(checkpoint_dir) / COMMON_FILE
        with reraised_as(CheckpointError, recovery_advice(Path(checkpoint_dir))):
            content = read_torch_file(file)
            reject_foreign_objects(content, file, "the checkpoint")
            if not isinstance(content, dict) or type(content.get("step_count", 0)) is not int:
                raise MalformedDataError(f"{file} is not a dictionary with the number of steps")
        return {key: value for key, value in content.items() if key == "step_count"}

    def load_sharded_objects(self, sharded_objects_state_dict: Any, checkpoint_dir: str | Path) -> None:
        """Refuse, because `ShardReader` reads the objects.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects are read by `ShardReader`."""
        return False

    def check_backend_compatibility(self, loaded_backend: str) -> None:
        """Nothing to do after `check_format`."""

    def check_version_compatibility(self, loaded_version: int) -> None:
        """Nothing to do after `check_format`."""


class ShardReader(LoadShardedStrategy):
    """Reads this rank's parts of the tensors, and its objects."""

    def __init__(self, digests: Mapping[str, FileDigest]) -> None:
        """Compare what is read with digests by file name; files without one are not checked."""
        super().__init__()
        self._digests = digests

    @property
    def can_handle_sharded_objects(self) -> bool:
        """Objects are stored in chunks like tensors."""
        return True

    def load(self, sharded_state_dict: Any, checkpoint_dir: str | Path) -> Any:
        """Read everything that a state of `ShardedTensor` and `ShardedObject` describes, in the same structure.

        Raises:
            CheckpointError: An entry is missing or damaged, or has another shape.
        """
        checkpoint = DistCheckpoint(Path(checkpoint_dir), self._digests)
        with reraised_as(CheckpointError, recovery_advice(Path(checkpoint_dir))):
            return dict_list_map_outplace(lambda entry: _read(checkpoint, entry), sharded_state_dict)

    def load_tensors_metadata(self, checkpoint_dir: str | Path) -> Any:
        """Refuse, because loading by a description of the state does not use it.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError

    def check_backend_compatibility(self, loaded_backend: str) -> None:
        """Nothing to do after `check_format`."""

    def check_version_compatibility(self, loaded_version: int) -> None:
        """Nothing to do after `check_format`."""


def _read(checkpoint: DistCheckpoint, entry: Any) -> Any:
    if isinstance(entry, ShardedObject):
        objects = checkpoint.read_object(entry.unique_key)
        if not isinstance(objects, list) or len(objects) != 1:
            raise MalformedDataError(f"{checkpoint.folder}: {entry.unique_key} is not one object")
        return objects[0]
    return _read_tensor(checkpoint, entry) if isinstance(entry, ShardedTensor) else entry


def _read_tensor(checkpoint: DistCheckpoint, entry: ShardedTensor) -> torch.Tensor:
    """Read a rank's part of a tensor into the memory that the entry describes; padding beyond the stored is zero."""
    stored = checkpoint.tensors.get(entry.key)
    if stored is None:
        raise MalformedDataError(f"{checkpoint.folder} lacks {entry.key}")
    if len(stored.shape) != len(entry.global_shape) or (
        stored.shape != tuple(entry.global_shape) and not entry.allow_shape_mismatch
    ):
        expected = list(entry.global_shape)
        raise MalformedDataError(
            f"{checkpoint.folder}: {entry.key} is {list(stored.shape)}, but the model expects {expected}"
        )
    if entry.data is None:
        entry.init_data(torch.device("cpu"), torch.zeros)
    target = entry.data.detach()
    lead = entry.prepend_axis_num
    sizes = (*(1 for _ in range(lead)), *entry.local_shape)
    starts = entry.global_offset
    box = tuple(
        (min(start, limit), min(start + size, limit))
        for start, size, limit in zip(starts, sizes, stored.shape, strict=True)
    )
    values = checkpoint.read(entry.key, box).flatten(0, lead) if lead else checkpoint.read(entry.key, box)
    if entry.allow_shape_mismatch:
        target.zero_()
    target[tuple(slice(0, size) for size in values.shape)].copy_(values)
    return target
