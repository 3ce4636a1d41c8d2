"""Training checkpoints in megatron-core's distributed format: weights, optimizer state and random state.

With LoRA only the adapters are saved, not the frozen weights. Folders, completeness and metadata are left to
`checkpoint_files`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from mindspeed_dpo.batches import RolloutBatch
from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.engine import checkpoint_files as files
from mindspeed_dpo.engine.async_checkpoint import BackgroundWriter, PendingCheckpoint
from mindspeed_dpo.engine.checkpoint_errors import save_errors
from mindspeed_dpo.engine.checkpoint_io import InMemorySave, InProcessSave
from mindspeed_dpo.engine.checkpoint_reader import COMMON_FILE, CommonReader, ShardReader, check_format
from mindspeed_dpo.engine.lora_checkpoint import sharded_adapters
from mindspeed_dpo.engine.optimizer_state import KINDS, OptimizerState
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.lora import adapter_layers
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.storage.digests import FileDigest

REFERENCE_PREFIX = "reference"
"""Prefix of the weights of a reference that is updated from the policy (TR-DPO)."""


@dataclass(frozen=True)
class CheckpointParts:
    """Which parts of a checkpoint are saved or loaded besides the weights."""

    optimizer: bool = True
    rng: bool = True


def start_save(
    root: Path,
    engine: TrainingEngine,
    accelerator: Accelerator,
    parts: CheckpointParts,
    metadata: Mapping[str, Any],
    ema_reference: PipelineStage | None = None,
    prefetched: RolloutBatch | None = None,
    *,
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
        ema_reference: A reference that is updated from the policy and has to be saved with it.
        prefetched: Rollouts already sampled for the next step.
        in_background: Return after copying the state; a thread writes the files.

    Raises:
        CheckpointError: The save folder is not visible from every node, or a file cannot be written.
    """
    iteration: int = metadata["iteration"]
    folder = _begin(root, iteration)
    storage = InMemorySave() if in_background else InProcessSave()
    with engine.parameters_gathered():
        state = {**_state(engine, accelerator, parts, is_loading=False), **_reference_state(ema_reference)}
        try:
            with save_errors(files.iteration_dir(root, iteration)):
                dist_checkpointing.save(state, str(folder), sharded_strategy=storage)
        except files.CheckpointError:
            if dist.get_rank() == 0:
                files.discard(folder)
            raise
    writing = BackgroundWriter(storage.files.contents) if isinstance(storage, InMemorySave) else None
    saved = {"optimizer": parts.optimizer, "rng": parts.rng, **({"follower": True} if ema_reference else {})}
    return PendingCheckpoint(root, folder, {**saved, **metadata}, prefetched, writing, storage.digests)


def _begin(root: Path, iteration: int) -> Path:
    """Create the temporary folder of a checkpoint on rank 0 and return it on every rank.

    Raises:
        CheckpointError: It cannot be created, or is not visible from every node.
    """
    folder: list[Path | None] = [None]
    if dist.get_rank() == 0:
        with save_errors(files.iteration_dir(root, iteration)):
            folder[0] = files.begin(root, iteration)
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
            files.discard(pending.partial)
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
    requested = _state(engine, accelerator, parts, is_loading=True)
    if ema_reference is not None and metadata.get("follower"):
        requested.update(_reference_state(ema_reference))
    state = _read(requested, folder, metadata)
    if ema_reference is not None and REFERENCE_PREFIX in state:
        _restore_model(ema_reference, state[REFERENCE_PREFIX])
    _restore_model(engine.model, state["model"])
    if parts.optimizer:
        _restore_optimizer(engine, state, state["step_count"])
    else:
        engine.optimizer.reload_model_params()
    if parts.rng:
        try:
            _restore_rng(accelerator, state["rng"])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise files.CheckpointError(
                f"{folder} holds no random state that can be restored ({error}); use an earlier iteration"
            ) from error


def _read(requested: dict[str, Any], folder: Path, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a state describes, without unpickling, and compare it with its digests; a collective over all ranks."""
    files.verify_small_files(folder, metadata)
    check_format(folder)
    reader = ShardReader(files.file_digests(metadata))
    state: dict[str, Any] = dist_checkpointing.load(requested, str(folder), reader, CommonReader())
    if "step_count" in requested and "step_count" not in state:
        raise files.CheckpointError(f"{folder / COMMON_FILE} lacks the number of steps; {files.way_out(folder)}")
    return state


def _restore_model(model: PipelineStage, tensors: Mapping[str, torch.Tensor | None]) -> None:
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, strict=False)


def _reference_state(ema_reference: PipelineStage | None) -> dict[str, Any]:
    """Describe the weights of the updated reference under their own prefix."""
    if ema_reference is None:
        return {}
    described = ema_reference.sharded_state_dict(prefix=f"{REFERENCE_PREFIX}.")
    return {REFERENCE_PREFIX: {name.removeprefix(f"{REFERENCE_PREFIX}."): entry for name, entry in described.items()}}


def _state(
    engine: TrainingEngine, accelerator: Accelerator, parts: CheckpointParts, *, is_loading: bool
) -> dict[str, Any]:
    adapters = adapter_layers(engine.model)
    model = sharded_adapters(adapters) if adapters else engine.model.sharded_state_dict()
    state: dict[str, Any] = {"model": model}
    if parts.optimizer:
        optimizer = OptimizerState(engine.optimizer)
        state.update(_optimizer_tensors(engine, optimizer, model, is_loading))
        state["step_count"] = optimizer.step_count
    if parts.rng:
        state["rng"] = _rng_object(accelerator)
    return state


def _optimizer_tensors(
    engine: TrainingEngine, optimizer: OptimizerState, model: Mapping[str, Any], is_loading: bool
) -> dict[str, dict[str, Any]]:
    """Describe state tensors in the same way as the parameters, so that they reshard alike.

    Only the first of the ranks that hold a parameter writes; every rank takes part in gathering and reads.
    """
    described: dict[str, dict[str, Any]] = {}
    for name, parameter in _trained(engine):
        for kind in KINDS:
            full = torch.empty(parameter.shape) if is_loading else optimizer.gather(parameter, kind).cpu()
            if is_loading or _holds_first_copy(parameter):
                described.setdefault(kind, {})[name] = _like(model[name], f"optimizer.state.{kind}", full)
    return described


def _holds_first_copy(parameter: torch.nn.Parameter) -> bool:
    """Whether this is the first of the ranks with copies; those of experts may be tensor-parallel ranks as well."""
    if getattr(parameter, "allreduce", True):
        return parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0
    return parallel_state.get_expert_data_parallel_rank() == 0


def _trained(engine: TrainingEngine) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in engine.model.named_parameters() if parameter.requires_grad]


def _like(entry: ShardedTensor | ShardedTensorFactory, prefix: str, data: torch.Tensor) -> Any:
    changes: dict[str, Any] = {"key": f"{prefix}.{entry.key}", "data": data}
    if isinstance(entry, ShardedTensor):
        changes["dtype"] = data.dtype
    return replace(entry, **changes)


def _restore_optimizer(engine: TrainingEngine, tensors: Mapping[str, Mapping[str, torch.Tensor]], steps: int) -> None:
    optimizer = OptimizerState(engine.optimizer)
    for name, parameter in _trained(engine):
        for kind in KINDS:
            optimizer.scatter(parameter, kind, tensors[kind][name])
    optimizer.step_count = steps


def _rng_object(accelerator: Accelerator) -> ShardedObject:
    state = {
        "host": torch.get_rng_state(),
        "device": accelerator.rng_state(),
        "tracker": dict(get_cuda_rng_tracker().get_states()),
    }
    axes = (
        (parallel_state.get_pipeline_model_parallel_rank(), parallel_state.get_pipeline_model_parallel_world_size()),
        (parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()),
        (
            parallel_state.get_data_parallel_rank(with_context_parallel=True),
            parallel_state.get_data_parallel_world_size(with_context_parallel=True),
        ),
    )
    return ShardedObject("rng", state, tuple(size for _, size in axes), tuple(rank for rank, _ in axes), replica_id=0)


def _restore_rng(accelerator: Accelerator, state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["host"])
    accelerator.set_rng_state(state["device"])
    get_cuda_rng_tracker().set_states(state["tracker"])
