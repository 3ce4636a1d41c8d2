"""Weights of a reference that is updated from the policy (TR-DPO), in checkpoints.

Beside the actor they are part of its own state; processes of the reference's own write them into a folder of the
checkpoint. Either form is read by either.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing

from mindspeed_dpo.engine.checkpoints.checkpoint_errors import save_errors
from mindspeed_dpo.engine.checkpoints.checkpoint_reader import CommonReader, ShardReader, check_format
from mindspeed_dpo.engine.checkpoints.checkpoint_state import REFERENCE_PREFIX, reference_state, restore_model
from mindspeed_dpo.engine.checkpoints.checkpoint_tensor_writer import InProcessSave
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import file_digests
from mindspeed_dpo.engine.checkpoints.saved_reference import REFERENCE_FOLDER, SavedReference
from mindspeed_dpo.engine.checkpoints.tracker_and_completeness import CheckpointError, iteration_dir, read_metadata
from mindspeed_dpo.models.virtual_stages import PipelineStage


def save_reference(root: Path, iteration: int, model: PipelineStage) -> SavedReference:
    """Write the weights beside the checkpoints; a collective over all ranks of the reference.

    Args:
        root: The save folder, shared by all ranks and those of the actor.
        iteration: Iteration of the checkpoint that they will be part of.
        model: This rank's part of the reference.

    Returns:
        What this rank has written.

    Raises:
        CheckpointError: The folder is not visible from every node, or a file cannot be written.
    """
    folder = root / f"reference_{iteration:07d}.partial"
    if dist.get_rank() == 0:
        with save_errors(iteration_dir(root, iteration)):
            for remains in root.glob("reference_*.partial"):
                shutil.rmtree(remains, ignore_errors=True)
            folder.mkdir(parents=True)
    dist.barrier()
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not visible from this node; set save to a folder on storage shared by all nodes"
        )
    storage = InProcessSave()
    with save_errors(iteration_dir(root, iteration)):
        dist_checkpointing.save(reference_state(model), str(folder), sharded_strategy=storage)
    return SavedReference(str(folder), storage.digests)


def load_reference(folder: Path, model: PipelineStage) -> None:
    """Read the weights of a checkpoint into a model, in whichever form they are; a collective over all ranks.

    Does nothing where the checkpoint has none: the reference then is as it was loaded.

    Raises:
        CheckpointError: They are damaged, or of another model.
    """
    metadata = read_metadata(folder)
    if not metadata.get("follower"):
        return
    digests, source = file_digests(metadata), folder
    if (folder / REFERENCE_FOLDER).is_dir():
        source = folder / REFERENCE_FOLDER
        prefix = f"{REFERENCE_FOLDER}/"
        digests = {name.removeprefix(prefix): digest for name, digest in digests.items() if name.startswith(prefix)}
    check_format(source)
    state: dict[str, Any] = dist_checkpointing.load(
        reference_state(model), str(source), ShardReader(digests), CommonReader()
    )
    restore_model(model, state[REFERENCE_PREFIX])
