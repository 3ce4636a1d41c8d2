"""LoRA adapters in checkpoints, with a score head trained beside them: full tensors under PEFT's names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from mindspeed_dpo.models.lora import AdapterLayer, ExpertLoraLayer, LoraLayer
from mindspeed_dpo.models.reward import HEAD_PARAMETERS, score_head
from mindspeed_dpo.models.virtual_stages import PipelineStage
from mindspeed_dpo.parallel.expert_parallel import ExpertGroup
from mindspeed_dpo.storage.digests import FileDigest
from mindspeed_dpo.weights.lora.adapter_source import KEY_PREFIX, adapter_settings, read_checkpoint_adapters
from mindspeed_dpo.weights.lora.peft import HEAD, write_peft

PEFT_FOLDER = "adapter"
"""Folder within a checkpoint that PEFT can load."""


def sharded_adapters(adapters: Mapping[str, AdapterLayer]) -> dict[str, ShardedTensor]:
    """Describe this process's adapters by local name as shards of full tensors."""
    described = {}
    for path, module in adapters.items():
        entries = _expert_entries(module) if isinstance(module, ExpertLoraLayer) else _linear_entries(module)
        described.update({f"{path}.{name}": entry for name, entry in entries})
    return described


def sharded_head(model: PipelineStage) -> dict[str, ShardedTensor]:
    """Describe this process's shard of the score head, which is saved with the adapters; empty without one."""
    head = score_head(model)
    if head is None:
        return {}
    tp = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    entry = ShardedTensor.from_rank_offsets(KEY_PREFIX + HEAD, head.weight, (1, *tp), replica_id=(0, 0, replica))
    return {HEAD_PARAMETERS[0]: entry}


def _linear_entries(module: LoraLayer) -> Iterator[tuple[str, ShardedTensor]]:
    tp_rank, tp_size = (
        parallel_state.get_tensor_model_parallel_rank(),
        parallel_state.get_tensor_model_parallel_world_size(),
    )
    replica = parallel_state.get_data_parallel_rank(with_context_parallel=True)
    for name, stored, dim in module.named_factors():
        places = () if dim is None else ((dim, tp_rank, tp_size),)
        yield (
            name,
            ShardedTensor.from_rank_offsets(
                KEY_PREFIX + stored,
                getattr(module, name),
                *places,
                replica_id=(0, tp_rank if dim is None else 0, replica),
            ),
        )


def _expert_entries(module: ExpertLoraLayer) -> Iterator[tuple[str, ShardedTensor]]:
    """The adapters of experts are split by expert, and all ranks that hold the same experts have copies."""
    group, replica = ExpertGroup.current(), parallel_state.get_expert_data_parallel_rank()
    for name, stored in module.named_factors():
        yield (
            name,
            ShardedTensor.from_rank_offsets(
                KEY_PREFIX + stored, getattr(module, name), (0, group.rank, group.size), replica_id=(0, 0, replica)
            ),
        )


def export_peft(folder: Path, description: Mapping[str, Any]) -> dict[str, FileDigest]:
    """Also write the adapters of a checkpoint in PEFT's format, into its folder; called by one process.

    Args:
        folder: Folder of the checkpoint.
        description: The `adapters` entry of its metadata.

    Returns:
        Digests of the files by their path within the folder.
    """
    written = write_peft(
        read_checkpoint_adapters(folder),
        adapter_settings(description["settings"]),
        str(description["base"]),
        folder / PEFT_FOLDER,
    )
    return {f"{PEFT_FOLDER}/{name}": digest for name, digest in written.items()}
