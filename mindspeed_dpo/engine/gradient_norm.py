"""The norm of the whole gradient, by which it is clipped."""

from __future__ import annotations

from typing import Any

import torch

from mindspeed_dpo.device.ops.sums import sum_of_squares
from mindspeed_dpo.parallel.sums import sum_over_ranks


def gradient_norm(optimizer: Any, device: torch.device) -> float:
    """Global L2 norm of the gradients that an optimizer of megatron-core has made ready.

    megatron-core's own norm adds the squares of a tensor one after another in float32: of 50 million numbers it is off
    by 0.4 %. Which gradients count on this rank, and over which ranks they are spread, is left to the library.

    Args:
        optimizer: Its gradients are unscaled and in float32.
        device: Of the model; a rank may hold no gradient that counts.

    Returns:
        The norm, equal on all ranks that share the gradient; not finite where the gradient is not.
    """
    gradients = [grad for inner in optimizer.chained_optimizers for grad in inner.get_main_grads_for_grad_norm()]
    local = sum_of_squares(gradients, device)
    return float(sum_over_ranks(local[None], optimizer.get_grad_stats_parallel_group()).sqrt())
