"""Sums over ranks whose error does not grow with the number of ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.device.ops import total


def sum_over_ranks(values: Tensor, group: Any = None) -> Tensor:
    """Sum a few values over ranks with the same result on each.

    Each rank gathers the values of all and sums them as `total` does; an all-reduce would add rank after rank in
    float32.

    Args:
        values: Values of this rank, of any shape, floating dtype and any unit.
        group: Process group of torch.distributed; None for all processes.

    Returns:
        The sums, in the same shape and the dtype of `total`.
    """
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group)
    return total(torch.stack(parts))
