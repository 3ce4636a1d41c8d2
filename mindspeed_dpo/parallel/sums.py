"""Sums over ranks whose error does not grow with the number of ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.device.ops import total


def sum_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """Add up a few numbers over ranks, alike on each of them.

    Each rank gets the numbers of all and adds them as `total` does; an all-reduce in float32 adds rank after rank.

    Args:
        values: Numbers of this rank, of any shape.
        group: Process group of torch, or None for all processes.

    Returns:
        Their sums, in the number format of `total`.
    """
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group)
    return total(torch.stack(parts))
