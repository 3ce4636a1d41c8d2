"""Gathers the step values that cross-pair losses need, over micro-batches and replicas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from mindspeed_dpo.algorithms.cross_pair_values import StepValues
from mindspeed_dpo.batches import PackedBatch
from mindspeed_dpo.device.ops.sums import sum_dtype
from mindspeed_dpo.workers.logprobs import response_logps


def gather_step_values(
    batches: Sequence[PackedBatch], columns: Sequence[Tensor] | None, num_pairs: int, ld_alpha: float
) -> StepValues:
    """Gather the values of every pair of a step on every rank of the last stage; a collective of them.

    Args:
        batches: This rank's micro-batches.
        columns: The head's columns [R, 5] float32 for each of them, without gradient, in nats; None where no loss
            needs log-probabilities.
        num_pairs: Number N of pairs over all ranks.
        ld_alpha: Weight of a response's excess tokens, as in `response_logps`.
    """
    device = batches[0].weights.device
    gathered = torch.zeros(num_pairs, 6, dtype=sum_dtype(device), device=device)
    for number, batch in enumerate(batches):
        lengths = batch.response_lengths.to(gathered.dtype)
        logps = torch.zeros_like(lengths) if columns is None else response_logps(batch, columns[number], ld_alpha)
        values = torch.cat([lengths, logps, batch.ref_logps], 1)
        # A padding pair, of a rank without pairs of its own, has weight 0 and the number of another pair.
        gathered.index_add_(0, batch.pair_ids, values * batch.weights[:, None].to(gathered.dtype))
    dist.all_reduce(gathered, dist.ReduceOp.SUM, parallel_state.get_data_parallel_group())
    lengths, logps, ref_logps = gathered.split(2, 1)
    return StepValues(lengths, None if columns is None else logps, None if columns is None else ref_logps)
