"""Writes a training checkpoint as megatron-core does, from a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor

from mindspeed_dpo.weights import ParallelLayout, open_weights
from tests.support.processes import pool


def write_training_checkpoint(source: Path, target: Path, tp: int, *, stacked: bool = False) -> None:
    """Write `<target>/iter_0000010` and the tracker; tensors of layers are stacked, or numbered by layer."""
    pool(1).run(_write, source, target, tp, stacked)


def _write(source: Path, target: Path, tp: int, stacked: bool) -> None:
    """One process plays all tensor-parallel ranks."""
    weights = open_weights(source)
    model = weights.model_config()
    state: dict[str, ShardedTensor] = {}
    experts = model.num_experts or 0
    for rank in range(tp):
        placement = ParallelLayout(tp=tp).placement(model.num_layers, rank, 0)
        for name, tensor in weights.local_tensors(model, placement):
            for number, shard in enumerate(shards(name, tensor, rank, tp, (model.num_layers, experts), stacked)):
                state[f"{name}.{rank}.{number}"] = shard
    folder = target / "iter_0000010"
    folder.mkdir(parents=True)
    state["optimizer"] = ShardedTensor.from_rank_offsets("optimizer.state.exp_avg.decoder.x", torch.ones(3))
    dist_checkpointing.save({**state, "iteration": 10}, str(folder))
    (folder / "mindspeed_dpo.json").write_text(json.dumps({"model": model.as_dict(), "iteration": 10}))
    (target / "latest_checkpointed_iteration.txt").write_text("10")


def shards(
    name: str, tensor: torch.Tensor, rank: int, tp: int, sizes: tuple[int, int], stacked: bool
) -> list[ShardedTensor]:
    """The sharded tensors megatron-core's layers would make of one rank's tensor; sizes: layers and experts."""
    layers, experts = sizes
    dim = 1 if name.endswith(("linear_proj.weight", "linear_fc2.weight", "rm_head.weight")) else 0
    key, lead = name, []
    if name.startswith("decoder.layers.") and stacked:
        _, _, layer, rest = name.split(".", 3)
        key, lead = f"decoder.layers.{rest}", [(0, int(layer), layers)]
    if ".local_experts." in key:
        module, _, rest = key.partition(".local_experts.")
        expert, _, rest = rest.partition(".")
        key, lead = f"{module}.{rest}", [*lead, (len(lead), int(expert), experts)]
    if "layernorm" in name or name == "rm_head.bias":
        offsets = [[]] if rank == 0 else []
        parts = [tensor]
    elif "linear_fc1" in name:
        parts = list(tensor.chunk(2))
        offsets = [[(dim + len(lead), half * tp + rank, 2 * tp)] for half in (0, 1)]
    else:
        parts, offsets = [tensor], [[(dim + len(lead), rank, tp)]]
    return [
        ShardedTensor.from_rank_offsets(key, part.clone(), *lead, *offset, prepend_axis_num=len(lead))
        for part, offset in zip(parts, offsets, strict=False)
    ]
