"""The state in a checkpoint, described for megatron-core: weights, optimizer and random state, EMA reference.

With LoRA only the adapters, and the score head of a reward model, are saved, not the frozen weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from mindspeed_dpo.device import Accelerator
from mindspeed_dpo.engine.checkpoints.lora_checkpoint import sharded_adapters, sharded_head
from mindspeed_dpo.engine.optimizer_state import KINDS, OptimizerState
from mindspeed_dpo.engine.train_engine import TrainingEngine
from mindspeed_dpo.models.lora import adapter_layers
from mindspeed_dpo.models.virtual_stages import PipelineStage

REFERENCE_PREFIX = "reference"
"""Prefix of the weights of a reference that is updated from the policy (TR-DPO)."""


@dataclass(frozen=True)
class CheckpointParts:
    """The parts of a checkpoint that are saved or loaded besides the weights, such as `CheckpointParts(rng=False)`."""

    optimizer: bool = True
    rng: bool = True


def restore_model(model: PipelineStage, tensors: Mapping[str, torch.Tensor | None]) -> None:
    """Copy weights into a model: tensors by name, each in the shape of its parameter and of any dtype."""
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None}, strict=False)


def reference_state(ema_reference: PipelineStage | None) -> dict[str, Any]:
    """Describe the weights of the updated reference under their own prefix."""
    if ema_reference is None:
        return {}
    described = ema_reference.sharded_state_dict(prefix=f"{REFERENCE_PREFIX}.")
    return {REFERENCE_PREFIX: {name.removeprefix(f"{REFERENCE_PREFIX}."): entry for name, entry in described.items()}}


def engine_state(
    engine: TrainingEngine, accelerator: Accelerator, parts: CheckpointParts, *, is_loading: bool
) -> dict[str, Any]:
    """Describe what is saved or loaded; only with `is_loading` the tensors of the optimizer are empty."""
    adapters = adapter_layers(engine.model)
    if adapters:
        model: dict[str, Any] = {**sharded_adapters(adapters), **sharded_head(engine.model)}
    else:
        model = engine.model.sharded_state_dict()
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


def restore_optimizer(engine: TrainingEngine, tensors: Mapping[str, Mapping[str, torch.Tensor]], steps: int) -> None:
    """Copy optimizer state: float32 tensors of the shape of their parameters, by kind and name, and the step count."""
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


def restore_rng(accelerator: Accelerator, state: Mapping[str, Any]) -> None:
    """Set the random states of host (uint8), device and tensor-parallel regions."""
    torch.set_rng_state(state["host"])
    accelerator.set_rng_state(state["device"])
    get_cuda_rng_tracker().set_states(state["tracker"])
