"""Checkpoints of a training run: weights, optimizer and random state through megatron-core's distributed format.

With adapters the weights beneath them, which stay as they are, are left out.

Which folders they lie in, and how a half-written one is kept apart, is told in `checkpoint_files`.
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
from mindspeed_dpo.engine.adapter_state import sharded_adapters
from mindspeed_dpo.engine.async_checkpoint import BackgroundWrite, BegunSave
from mindspeed_dpo.engine.checkpoint_io import InMemorySave, InProcessSave
from mindspeed_dpo.engine.optimizer_state import KINDS, OptimizerState
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.chunks import ModelPart
from mindspeed_dpo.models.lora import adapters_of

FOLLOWER = "reference"
"""Prefix of the weights of a reference that follows the policy."""


@dataclass(frozen=True)
class Parts:
    """What of a checkpoint is saved or loaded beside the weights."""

    optimizer: bool = True
    rng: bool = True


def begin_save(
    root: Path,
    engine: TrainingEngine,
    accelerator: Accelerator,
    parts: Parts,
    metadata: Mapping[str, Any],
    follower: ModelPart | None = None,
    ahead: RolloutBatch | None = None,
    *,
    in_background: bool = False,
) -> BegunSave:
    """Write a checkpoint, or copy it to host memory and begin to write it; a collective over all ranks.

    The state may change as soon as this returns. One process must `finish` it once all have written; and only then may
    another be begun.

    Args:
        root: The save folder, shared by all ranks.
        engine: Whose weights and optimizer state are written.
        accelerator: Whose random state is written.
        parts: What is written beside the weights.
        metadata: Plain values; must hold `iteration`, and `adapters` where there are some.
        follower: A reference that follows the policy, whose weights are therefore written too.
        ahead: Answers that the next step learns from, where they are there already.
        in_background: Return once the state is copied, while a thread writes it.
    """
    iteration: int = metadata["iteration"]
    folder = [files.begin(root, iteration) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(folder, 0)
    if not Path(str(folder[0])).is_dir():
        raise files.CheckpointError(f"{folder[0]} is not seen from this node: save must lie on storage that all share")
    storage = InMemorySave() if in_background else InProcessSave()
    with engine.parameters_gathered():
        state = {**_state(engine, accelerator, parts, is_loading=False), **_following(follower)}
        dist_checkpointing.save(state, str(folder[0]), sharded_strategy=storage)
    writing = BackgroundWrite(storage.files.contents) if isinstance(storage, InMemorySave) else None
    said = {"optimizer": parts.optimizer, "rng": parts.rng, **({"follower": True} if follower else {})}
    return BegunSave(root, Path(str(folder[0])), {**said, **metadata}, ahead, writing)


def complete(begun: BegunSave) -> Path:
    """Wait for what was begun, finish it and return its folder; a collective over all ranks.

    Raises:
        CheckpointError: This rank's files could not be written.
    """
    begun.is_written(wait=True)
    dist.barrier()
    if dist.get_rank() == 0:
        begun.finish()
    dist.barrier()
    return begun.folder


def load(
    folder: Path,
    engine: TrainingEngine,
    accelerator: Accelerator,
    parts: Parts,
    follower: ModelPart | None = None,
) -> None:
    """Read a checkpoint into an engine, resharding as needed; a collective over all ranks.

    Raises:
        CheckpointError: The checkpoint lacks a part that is asked for.
    """
    metadata = files.read_metadata(folder)
    lacking = [part for part in ("optimizer", "rng") if getattr(parts, part) and not metadata[part]]
    if lacking:
        raise files.CheckpointError(f"{folder} was saved without {' and '.join(lacking)} state")
    asked = _state(engine, accelerator, parts, is_loading=True)
    if follower is not None and metadata.get("follower"):
        asked.update(_following(follower))
    state = dist_checkpointing.load(asked, str(folder))
    if follower is not None and FOLLOWER in state:
        _restore_model(follower, state[FOLLOWER])
    _restore_model(engine.model, state["model"])
    if parts.optimizer:
        _restore_optimizer(engine, state, state["step_count"])
    else:
        engine.optimizer.reload_model_params()
    if parts.rng:
        _restore_rng(accelerator, state["rng"])


def _restore_model(model: ModelPart, tensors: Mapping[str, torch.Tensor | None]) -> None:
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, strict=False)


def _following(follower: ModelPart | None) -> dict[str, Any]:
    """The weights of a reference that follows, under keys of their own."""
    if follower is None:
        return {}
    described = follower.sharded_state_dict(prefix=f"{FOLLOWER}.")
    return {FOLLOWER: {name.removeprefix(f"{FOLLOWER}."): entry for name, entry in described.items()}}


def _state(engine: TrainingEngine, accelerator: Accelerator, parts: Parts, *, is_loading: bool) -> dict[str, Any]:
    adapters = adapters_of(engine.model)
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
    """State tensors described like the model's own, so that they reshard like them.

    Only the first data- and context-parallel rank writes; every rank takes part in gathering, and every rank reads.
    """
    is_writer = parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0
    described: dict[str, dict[str, Any]] = {}
    for name, parameter in _trained(engine):
        for kind in KINDS:
            whole = torch.empty(parameter.shape) if is_loading else optimizer.gather(parameter, kind).cpu()
            if is_loading or is_writer:
                described.setdefault(kind, {})[name] = _like(model[name], f"optimizer.state.{kind}", whole)
    return described


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
