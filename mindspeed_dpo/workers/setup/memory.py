"""How much memory the processes of a job have needed."""

from __future__ import annotations

import torch
import torch.distributed as dist

from mindspeed_dpo.workers.setup.context import WorkerContext


def largest_peak(context: WorkerContext) -> float:
    """Most bytes that any process of the job has used so far; a collective.

    A sum over ranks of a vector in which each fills its own place: every backend carries that, and float32 keeps seven
    digits.
    """
    peaks = torch.zeros(dist.get_world_size(), dtype=torch.float32, device=context.device)
    peaks[dist.get_rank()] = float(context.accelerator.peak_memory_bytes())
    dist.all_reduce(peaks, dist.ReduceOp.SUM)
    return float(peaks.max())
