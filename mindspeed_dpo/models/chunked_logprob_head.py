"""The log-probability head: output layer and log-softmax in one, computed in chunks of rows, vocabulary-parallel.

The logits of one chunk are in memory at a time. Exponentials of the first chunks are saved for the backward pass up to
a bound, and those of the others are recomputed there, so memory does not grow with tokens x vocabulary.
Letters: R rows, h hidden size, V vocabulary, v rows of this rank's shard of the padded vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear
from torch import Tensor

from mindspeed_dpo.batches.logprob_columns import LOGP
from mindspeed_dpo.device.ops import label_logps
from mindspeed_dpo.models.vocab_shard import VocabShard

CHUNK_ELEMENTS = 1 << 24
SAVED_ELEMENTS = 1 << 26
"""Exponentials of logits that a forward pass saves for its backward pass, in float32: 256 MiB."""


class LogProbHead(ColumnParallelLinear):
    """The output layer; its forward pass maps hidden states and labels to log-probabilities, without returning logits.

    It is a module, so that the forward hooks of the data-parallel wrapper run.
    """

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        labels: Tensor,
        shard: VocabShard,
        weight: Tensor | None = None,
        statistics: bool = False,
        fused: bool = False,
    ) -> Tensor:
        """Compute the log-probability of each label.

        Args:
            hidden: [R, h] hidden states that predict the labels, equal on all tensor-parallel ranks.
            labels: [R] int64 token ids.
            shard: This rank's shard of the vocabulary.
            weight: [v, h] tied embedding weights, or None to use the layer's own.
            statistics: Also compute entropy (nats), whether the label is the arg-max, the mean logit, and the log of
                the collision probability (the sum of squared probabilities, in nats).
            fused: Use the device's fused operator, which does not compute statistics.

        Returns:
            [R, 1 or 5] float32; only column `LOGP` has a gradient.
        """
        weight = self.weight if weight is None else weight
        if fused and not statistics:
            column, is_local = shard.local_columns(labels)
            # Rows of padding are cut off, so they have no probability and a gradient of zero.
            return label_logps(hidden, weight[: shard.num_real], column.where(is_local, -1), shard.all_reduce)[:, None]
        has_backward = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
        max_saved = SAVED_ELEMENTS if has_backward else 0
        columns: Tensor = _LogProbs.apply(hidden, weight, labels, shard, statistics, max_saved)
        return columns


class _LogProbs(torch.autograd.Function):
    """The function log softmax(hidden @ weight.T)[label], with a bound on what is saved for the backward pass."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, shard: VocabShard, statistics: bool, max_saved: int
    ) -> Tensor:
        results, saved = [], []
        for h, y in zip(*(_chunks(t, shard) for t in (hidden, labels)), strict=True):
            *result, exponentials = _score_chunk(h @ weight.t(), y, shard, statistics)
            results.append(result)
            max_saved -= exponentials.numel()
            if max_saved >= 0:
                saved.append(exponentials)
        columns, highest, total = (torch.cat(parts) for parts in zip(*results, strict=True))
        ctx.save_for_backward(hidden, weight, labels, highest, total, *saved)
        ctx.shard = shard
        return columns

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, labels, highest, total, *saved = ctx.saved_tensors
        shard: VocabShard = ctx.shard
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        # Chunks are summed in float32 and rounded once, because rounding each of them biases low-precision training.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        rows = (hidden, labels, highest, grad[:, LOGP], total, grad_hidden)
        for number, (h, y, top, g, t, out) in enumerate(zip(*(_chunks(r, shard) for r in rows), strict=True)):
            if number < len(saved):
                exponentials = saved[number]
            else:
                exponentials = _exponentials(_mask_padding(h @ weight.t(), shard), top)
            d_logits = _logits_gradient(exponentials, y, g, t, shard).to(weight.dtype)
            out.copy_(d_logits @ weight)
            if grad_weight is not None:
                _add_product(grad_weight, d_logits.t(), h)
        weight_gradient = None if grad_weight is None else grad_weight.to(weight.dtype)
        return shard.all_reduce(grad_hidden).to(hidden.dtype), weight_gradient, None, None, None, None


def _chunks(rows: Tensor, shard: VocabShard) -> tuple[Tensor, ...]:
    """Split rows into views so that the logits of each chunk have at most about CHUNK_ELEMENTS elements."""
    return rows.split(max(1, CHUNK_ELEMENTS // shard.size))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a float32 total, in one operation where the product is float32 too."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _mask_padding(logits: Tensor, shard: VocabShard) -> Tensor:
    """Convert logits to float32 and set the columns of padding to minus infinity."""
    masked = logits.float()
    masked[:, shard.num_real :] = float("-inf")
    return masked


def _exponentials(logits: Tensor, highest: Tensor) -> Tensor:
    """Compute exp(logits - highest) in place: allocating a tensor of this size costs more than the arithmetic."""
    return logits.sub_(highest[:, None]).exp_()


def _logits_gradient(exponentials: Tensor, labels: Tensor, grad: Tensor, total: Tensor, shard: VocabShard) -> Tensor:
    """Compute (one-hot - exponentials / total) * grad, in place of the exponentials."""
    column, is_local = shard.local_columns(labels)
    d_logits = exponentials.mul_((-grad / total)[:, None])
    return d_logits.scatter_add_(1, column[:, None], (grad * is_local)[:, None])


def _score_chunk(
    logits: Tensor, labels: Tensor, shard: VocabShard, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute columns [rows, 1 or 5], highest logit [rows], sum of exponentials [rows], and exponentials [rows, v]."""
    logits = _mask_padding(logits, shard)
    highest = shard.all_reduce(logits.amax(-1), dist.ReduceOp.MAX)
    column, is_local = shard.local_columns(labels)
    label_logit = logits.gather(1, column[:, None])[:, 0].where(is_local, 0.0)
    # Only statistics read the logits again; otherwise the exponentials overwrite them.
    exponentials = _exponentials(logits.clone() if statistics else logits, highest)
    sums = [exponentials.sum(-1), label_logit]
    if statistics:
        # Without the columns of padding, where 0 * -inf would be NaN.
        real = logits[:, : shard.num_real]
        # Products and norms need no temporary tensor of the size of the logits.
        sums += [torch.einsum("rv,rv->r", exponentials[:, : shard.num_real], real), real.sum(-1)]
        sums += [torch.linalg.vector_norm(exponentials, dim=-1).square()]
    summed = shard.all_reduce(torch.stack(sums, dim=-1))
    total = summed[:, 0]
    log_sum = highest + total.log()
    columns = [summed[:, 1] - log_sum]
    if statistics:
        top1_hit = (summed[:, 1] >= highest).float()
        log_collision = summed[:, 4].log() - 2 * total.log()
        columns += [log_sum - summed[:, 2] / total, top1_hit, summed[:, 3] / shard.vocab_size, log_collision]
    return torch.stack(columns, dim=-1), highest, total, exponentials
