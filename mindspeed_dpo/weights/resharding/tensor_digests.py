"""A 64-bit digest of each unsharded tensor that depends on its bits and their positions, and not on the layout.

The bits of each element are multiplied by an odd number derived from the element's position in the unsharded tensor,
and summed modulo 2^64. The sum does not depend on which rank holds which part. A single changed element always changes
the digest; several changed elements almost certainly do.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.weights.resharding.shards import Region, Shards, full_shapes

_BLOCK_ELEMENTS = 1 << 20
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# The odd multipliers of splitmix64 as signed numbers.
_MIX_1, _MIX_2 = -0x40A7B892E31B1A47, -0x61C8864680B583EB


def digests(
    shards: Shards,
    tensor: dist.ProcessGroup | None,
    experts: dist.ProcessGroup | None = None,
    stages: dist.ProcessGroup | None = None,
) -> dict[str, int]:
    """The digest of every tensor of the model; a collective of the processes that hold it together.

    Args:
        shards: The tensors of this process.
        tensor: Its tensor-parallel group, or None for a single rank.
        experts: The processes that share the experts of its layers, or None for a single one.
        stages: Its pipeline-parallel group, or None for a single stage.

    Returns:
        Signed 64-bit numbers by name, in the model's order. A tensor that no process holds has digest 0.
    """
    shapes = full_shapes(shards.model)
    held = {tensor.name for tensor in shards.specs()}
    # One row for each of the groups whose ranks hold different parts of a layer.
    sums = torch.zeros(2, len(shapes), dtype=torch.int64, device=shards.device)
    for index, (name, shape) in enumerate(shapes.items()):
        num_columns = shape[1] if len(shape) > 1 else 1
        if name in held:
            for region in shards.owned_regions(name, 0, shape[0]):
                sums[int(shards.is_expert(name)), index] += _digest(region, num_columns)
    for part, group in zip(sums, (tensor, experts), strict=True):
        if group is not None:
            dist.all_reduce(part, dist.ReduceOp.SUM, group)
    totals = sums.sum(0)
    if stages is not None:
        dist.all_reduce(totals, dist.ReduceOp.SUM, stages)
    return dict(zip(shapes, totals.tolist(), strict=True))


def tensor_digest(tensor: Tensor) -> int:
    """The digest of one unsharded tensor, [rows] or [rows, columns] of any dtype and unit, as of `digests`."""
    return int(_digest(Region(tensor, 0, 0), tensor.shape[1] if tensor.dim() > 1 else 1))


def _digest(region: Region, num_columns: int) -> Tensor:
    """The part that a region contributes to the digest of a tensor with `num_columns` columns: a scalar int64."""
    tensor = region.tensor if region.tensor.dim() > 1 else region.tensor[:, None]
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    column = region.column + torch.arange(tensor.shape[1], device=tensor.device)
    rows = max(1, _BLOCK_ELEMENTS // tensor.shape[1])
    for start in range(0, len(tensor), rows):
        block = tensor[start : start + rows].contiguous()
        row = region.row + start + torch.arange(len(block), device=tensor.device)
        bits = block.view(_BITS[block.element_size()]).to(torch.int64)
        total += (bits * _multipliers(row[:, None] * num_columns + column)).sum()
    return total


def _multipliers(positions: Tensor) -> Tensor:
    """An odd 64-bit number for each position [...] int64; products overflow and wrap around by design."""
    mixed = (positions + 1) * _MIX_2
    mixed = (mixed ^ (mixed >> 30)) * _MIX_1
    return (mixed ^ (mixed >> 27)) | 1
