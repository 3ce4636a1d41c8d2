"""The global gradient norm, which clipping uses."""

from __future__ import annotations

from typing import Any

import torch

from mindspeed_dpo.device.ops.sums import sum_of_squares
from mindspeed_dpo.parallel.sums import sum_over_ranks


def gradient_norm(optimizer: Any, device: torch.device) -> float:
    """Compute the global L2 norm of the gradients that an optimizer of megatron-core has prepared.

    megatron-core's own norm sums the squares of a tensor sequentially in float32, with an error of 0.4 % for 50 million
    values. Which gradients count on this rank, and over which ranks they are sharded, is left to the library.

    Args:
        optimizer: An optimizer whose gradients are unscaled and in float32.
        device: Device of the model; a rank may have no gradient that counts.

    Returns:
        The norm, equal on all ranks that share the gradient; not finite where the gradient is not.
    """
    gradients = [grad for inner in optimizer.chained_optimizers for grad in inner.get_main_grads_for_grad_norm()]
    local = sum_of_squares(gradients, device)
    return float(sum_over_ranks(local[None], optimizer.get_grad_stats_parallel_group()).sqrt())
