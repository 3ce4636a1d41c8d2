"""A number for each whole tensor that depends on its bits and their places, and on nothing else.

Each element's bits are multiplied by an odd number drawn from the element's position in the whole tensor, and summed
modulo 2^64. A sum does not care who holds which part, so every layout gives the same number; one changed element always
changes it, and more than one all but certainly.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.weights.resharding.shards import Region, Shards, whole_shapes

_BLOCK_ELEMENTS = 1 << 20
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd multipliers of splitmix64, as signed numbers.
_MIX_1, _MIX_2 = -0x40A7B892E31B1A47, -0x61C8864680B583EB


def digests(shards: Shards, group: dist.ProcessGroup | None) -> dict[str, int]:
    """The number of every tensor of the model, from the processes that hold it together; a collective of them.

    Args:
        shards: What this process holds.
        group: The processes of one replica, or None where this one is alone.

    Returns:
        By name, in the model's order, each within 64 bits. A tensor that nobody holds has 0.
    """
    shapes = whole_shapes(shards.model)
    held = {tensor.name for tensor in shards.describe()}
    sums = torch.zeros(len(shapes), dtype=torch.int64, device=shards.device)
    for index, (name, shape) in enumerate(shapes.items()):
        columns = shape[1] if len(shape) > 1 else 1
        if name in held:
            for region in shards.own(name, 0, shape[0]):
                sums[index] += _digest(region, columns)
    if group is not None:
        dist.all_reduce(sums, dist.ReduceOp.SUM, group)
    return dict(zip(shapes, sums.tolist(), strict=True))


def first_difference(one: Mapping[str, int], other: Mapping[str, int]) -> str | None:
    """The first tensor whose numbers differ, or that only one of them has; None for equal weights."""
    return next((name for name in {**one, **other} if one.get(name) != other.get(name)), None)


def _digest(region: Region, columns: int) -> Tensor:
    """The share of a region in the number of a tensor with this many columns: a scalar int64."""
    tensor = region.tensor if region.tensor.dim() > 1 else region.tensor[:, None]
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    column = region.column + torch.arange(tensor.shape[1], device=tensor.device)
    rows = max(1, _BLOCK_ELEMENTS // tensor.shape[1])
    for start in range(0, len(tensor), rows):
        block = tensor[start : start + rows].contiguous()
        row = region.row + start + torch.arange(len(block), device=tensor.device)
        bits = block.view(_BITS[block.element_size()]).to(torch.int64)
        total += (bits * _weights(row[:, None] * columns + column)).sum()
    return total


def _weights(positions: Tensor) -> Tensor:
    """An odd 64-bit number for each position [...] int64; multiplication wraps around, as intended."""
    mixed = (positions + 1) * _MIX_2
    mixed = (mixed ^ (mixed >> 30)) * _MIX_1
    return (mixed ^ (mixed >> 27)) | 1
