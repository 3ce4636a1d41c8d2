"""Adapters as checkpoints hold them: whole tensors under PEFT's names, whatever layout trained them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from mindspeed_dpo.models.lora import Adapters
from mindspeed_dpo.weights.lora.peft import write_peft
from mindspeed_dpo.weights.lora.source import KEY_PREFIX, settings_from, stored_adapters

PEFT_FOLDER = "adapter"
"""In a checkpoint's folder, for PEFT to load."""


def sharded_adapters(adapters: Mapping[str, Adapters]) -> dict[str, ShardedTensor]:
    """This process's adapters by local name, each described as its part of a whole tensor."""
    tp_rank, tp_size = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    described = {}
    for path, module in adapters.items():
        for name, stored, dim in module.named_parts():
            places = () if dim is None else ((dim, tp_rank, tp_size),)
            described[f"{path}.{name}"] = ShardedTensor.from_rank_offsets(
                KEY_PREFIX + stored,
                getattr(module, name),
                *places,
                replica_id=(0, tp_rank if dim is None else 0, replica),
            )
    return described


def export_peft(folder: Path, said: Mapping[str, Any]) -> None:
    """Write the adapters of a checkpoint's folder once more, in it, as PEFT loads them; by one process.

    Args:
        folder: Whose tensors are written.
        said: What the checkpoint says about its adapters.
    """
    write_peft(stored_adapters(folder), settings_from(said["settings"]), str(said["base"]), folder / PEFT_FOLDER)
