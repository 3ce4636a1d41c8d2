"""Training checkpoints in megatron-core's distributed format: weights, optimizer state and random state.

`checkpoint_state` describes what is saved, `checkpoint_commit` completes a folder, `checkpoint_verification` checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.engine.checkpoints import checkpoint_commit
from mindspeed_dpo.engine.checkpoints import tracker_and_completeness as files
from mindspeed_dpo.engine.checkpoints.async_checkpoint import BackgroundWriter, PendingCheckpoint
from mindspeed_dpo.engine.checkpoints.checkpoint_errors import save_errors
from mindspeed_dpo.engine.checkpoints.checkpoint_reader import COMMON_FILE, CommonReader, ShardReader, check_format
from mindspeed_dpo.engine.checkpoints.checkpoint_state import (
    CheckpointParts,
    engine_state,
    reference_state,
    restore_model,
    restore_optimizer,
    restore_rng,
)
from mindspeed_dpo.engine.checkpoints.checkpoint_tensor_writer import InMemorySave, InProcessSave
from mindspeed_dpo.engine.checkpoints.checkpoint_verification import file_digests, verify_small_files
from mindspeed_dpo.engine.checkpoints.common_state_writer import common_state_written_by
from mindspeed_dpo.engine.checkpoints.reference_checkpoint import load_reference
from mindspeed_dpo.engine.checkpoints.saved_reference import SavedReference
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.storage.digests import FileDigest


def start_save(
    root: Path,
    engine: TrainingEngine,
    accelerator: Accelerator,
    parts: CheckpointParts,
    metadata: Mapping[str, Any],
    *,
    reference: PipelineStage | SavedReference | None = None,
    prefetched: RolloutBatch | None = None,
    in_background: bool = False,
) -> PendingCheckpoint:
    """Write a checkpoint, or copy it to host memory and start to write it; a collective over all ranks.

    The state may change as soon as this returns. One process must call `finish` after all have written, and the next
    checkpoint must not be started before.

    Args:
        root: The save folder, shared by all ranks.
        engine: Provides the weights and the optimizer state.
        accelerator: Provides the random state.
        parts: CheckpointParts to write besides the weights.
        metadata: JSON values; must hold `iteration`, and `adapters` with LoRA.
        reference: A reference that is updated from the policy and has to be saved with it: its model, or what
            processes of its own have written.
        prefetched: Rollouts already sampled for the next step.
        in_background: Return after copying the state; a thread writes the files.

    Raises:
        CheckpointError: The save folder is not visible from every node, or a file cannot be written.
    """
    iteration: int = metadata["iteration"]
    folder = _begin(root, iteration)
    model, written = (None, reference) if isinstance(reference, SavedReference) else (reference, None)
    storage = InMemorySave() if in_background else InProcessSave()
    with engine.parameters_gathered():
        state = {**engine_state(engine, accelerator, parts, is_loading=False), **reference_state(model)}
        try:
            with save_errors(files.iteration_dir(root, iteration)), common_state_written_by(storage.disk_files):
                dist_checkpointing.save(state, str(folder), sharded_strategy=storage)
        except files.CheckpointError:
            if dist.get_rank() == 0:
                checkpoint_commit.discard(folder)
            raise
    writing = BackgroundWriter(storage.files.contents) if isinstance(storage, InMemorySave) else None
    saved = {"optimizer": parts.optimizer, "rng": parts.rng, **({"follower": True} if reference else {})}
    return PendingCheckpoint(root, folder, {**saved, **metadata}, prefetched, writing, storage.digests, written)


def _begin(root: Path, iteration: int) -> Path:
    """Create the temporary folder of a checkpoint on rank 0 and return it on every rank.

    Raises:
        CheckpointError: It cannot be created, or is not visible from every node.
    """
    folder: list[Path | None] = [None]
    if dist.get_rank() == 0:
        with save_errors(files.iteration_dir(root, iteration)):
            folder[0] = checkpoint_commit.begin(root, iteration)
    dist.broadcast_object_list(folder, 0)
    if not Path(str(folder[0])).is_dir():
        raise files.CheckpointError(
            f"{folder[0]} is not visible from this node; set save to a folder on storage shared by all nodes"
        )
    return Path(str(folder[0]))


def complete(pending: PendingCheckpoint) -> Path:
    """Wait for a pending checkpoint, finish it and return its folder; a collective over all ranks.

    Raises:
        CheckpointError: A file cannot be written.
    """
    pending.is_written(wait=True)
    finish(pending)
    dist.barrier()
    return pending.folder


def finish(pending: PendingCheckpoint) -> None:
    """Turn a checkpoint whose files are written into the newest one; a collective over all ranks.

    Raises:
        CheckpointError: A file cannot be written.
    """
    of_ranks: list[dict[str, FileDigest]] = [{}] * dist.get_world_size()
    dist.all_gather_object(of_ranks, pending.digests)
    if dist.get_rank() == 0:
        try:
            with save_errors(pending.folder):
                pending.finish({name: digest for digests in of_ranks for name, digest in digests.items()})
        except files.CheckpointError:
            checkpoint_commit.discard(pending.partial)
            raise


def load(
    folder: Path,
    engine: TrainingEngine,
    accelerator: Accelerator,
    parts: CheckpointParts,
    ema_reference: PipelineStage | None = None,
) -> None:
    """Read a checkpoint into an engine, resharding as needed; a collective over all ranks.

    Raises:
        CheckpointError: The checkpoint lacks a requested part, or is damaged.
    """
    metadata = files.read_metadata(folder)
    missing = [part for part in ("optimizer", "rng") if getattr(parts, part) and not metadata[part]]
    if missing:
        raise files.CheckpointError(f"{folder} was saved without {' and '.join(missing)} state")
    state = _read(engine_state(engine, accelerator, parts, is_loading=True), folder, metadata)
    if ema_reference is not None:
        load_reference(folder, ema_reference)
    restore_model(engine.model, state["model"])
    if parts.optimizer:
        restore_optimizer(engine, state, state["step_count"])
    else:
        engine.optimizer.reload_model_params()
    if parts.rng:
        try:
            restore_rng(accelerator, state["rng"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise files.CheckpointError(
                f"{folder} holds no random state that can be restored ({error}); use an earlier iteration"
            ) from error


def _read(requested: dict[str, Any], folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a state describes, without unpickling, and compare it with its digests; a collective over all ranks."""
    verify_small_files(folder, metadata)
    check_format(folder)
    reader = ShardReader(file_digests(metadata))
    state: dict[str, Any] = dist_checkpointing.load(requested, str(folder), reader, CommonReader())
    if "step_count" in requested and "step_count" not in state:
        raise files.CheckpointError(
            f"{folder / COMMON_FILE} lacks the number of steps; {files.recovery_advice(folder)}"
        )
    return state
