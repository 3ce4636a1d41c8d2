"""The log-probability head: LM head and log-softmax in one, by chunks of rows, split over the vocabulary.

Logits exist for one chunk at a time. Those of the first chunks are kept for the backward pass, up to a bound, and the
rest is computed again there, so memory does not grow with tokens x vocabulary.
Letters: R rows, h hidden, V vocabulary, v this rank's share of the padded vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear
from torch import Tensor

from mindspeed_dpo.device.ops import label_logps
from mindspeed_dpo.models.vocab_shard import VocabShard

# Columns of the head's result.
LOGP, ENTROPY, HIT, MEAN_LOGIT, LOG_COLLISION = range(5)
CHUNK_ELEMENTS = 1 << 24
KEPT_ELEMENTS = 1 << 26
"""Exponentials of logits that a pass keeps for its backward pass, in float32: 256 MiB."""


class LogProbHead(ColumnParallelLinear):
    """The output layer; called with hidden rows and labels it returns log-probabilities, never logits.

    It is a module that is called, so that hooks of the data-parallel wrapper on its weight fire.
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
        """Score labels.

        Args:
            hidden: [R, h] rows that predict the labels, equal on all tensor ranks.
            labels: [R] int64.
            shard: This rank's share of the vocabulary.
            weight: [v, h] of tied embeddings, or None to use its own.
            statistics: Also compute entropy (nats), whether the label is the arg-max, the mean logit, and the logarithm
                of the probability that two draws agree (log of the sum of squared probabilities).
            fused: Let the device's operator score; it knows no statistics.

        Returns:
            [R, 1 or 5] float32; column `LOGP` carries the gradient, the statistics do not.
        """
        weight = self.weight if weight is None else weight
        if fused and not statistics:
            column, here = shard.local(labels)
            # Padding takes no part, as its rows are left out; they get a gradient of zero.
            return label_logps(hidden, weight[: shard.real], column.where(here, -1), shard.all_reduce)[:, None]
        is_learned = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
        scores: Tensor = _LogProbs.apply(hidden, weight, labels, shard, statistics, KEPT_ELEMENTS if is_learned else 0)
        return scores

    def logits(self, hidden: Tensor, weight: Tensor | None = None) -> Tensor:
        """This rank's share of the logits [R, v] of hidden rows [R, h], padding included; no gradient."""
        with torch.no_grad():
            return hidden @ (self.weight if weight is None else weight).t()


class _LogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T)[label], keeping no more of the softmax than is allowed."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, shard: VocabShard, statistics: bool, keep: int
    ) -> Tensor:
        scored, kept = [], []
        for h, y in zip(*(_chunks(t, shard) for t in (hidden, labels)), strict=True):
            *found, weights = _score_chunk(h @ weight.t(), y, shard, statistics)
            scored.append(found)
            keep -= weights.numel()
            if keep >= 0:
                kept.append(weights)
        columns, highest, total = (torch.cat(parts) for parts in zip(*scored, strict=True))
        ctx.save_for_backward(hidden, weight, labels, highest, total, *kept)
        ctx.shard = shard
        return columns

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, labels, highest, total, *kept = ctx.saved_tensors
        shard: VocabShard = ctx.shard
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        # Summed in float32 over chunks and rounded once: rounding each chunk biases low-precision training.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        rows = (hidden, labels, highest, grad[:, LOGP], total, grad_hidden)
        for number, (h, y, top, g, t, out) in enumerate(zip(*(_chunks(r, shard) for r in rows), strict=True)):
            weights = kept[number] if number < len(kept) else _exponentials(_mask(h @ weight.t(), shard), top)
            d_logits = _logits_gradient(weights, y, g, t, shard).to(weight.dtype)
            out.copy_(d_logits @ weight)
            if grad_weight is not None:
                _add_product(grad_weight, d_logits.t(), h)
        summed = None if grad_weight is None else grad_weight.to(weight.dtype)
        return shard.all_reduce(grad_hidden).to(hidden.dtype), summed, None, None, None, None


def _chunks(rows: Tensor, shard: VocabShard) -> tuple[Tensor, ...]:
    """Views of the rows such that a chunk's logits have about CHUNK_ELEMENTS elements."""
    return rows.split(max(1, CHUNK_ELEMENTS // shard.size))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to a float32 total, in one pass where the product is float32 too."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _mask(logits: Tensor, shard: VocabShard) -> Tensor:
    """Logits in float32 with the padded columns at minus infinity."""
    wide = logits.float()
    wide[:, shard.real :] = float("-inf")
    return wide


def _exponentials(logits: Tensor, highest: Tensor) -> Tensor:
    """exp(logits - highest) in the logits' place: a new tensor of this size costs the host more than the arithmetic."""
    return logits.sub_(highest[:, None]).exp_()


def _logits_gradient(weights: Tensor, labels: Tensor, grad: Tensor, total: Tensor, shard: VocabShard) -> Tensor:
    """(one-hot - weights / total) * grad, in the place of the weights."""
    column, here = shard.local(labels)
    d_logits = weights.mul_((-grad / total)[:, None])
    return d_logits.scatter_add_(1, column[:, None], (grad * here)[:, None])


def _score_chunk(
    logits: Tensor, labels: Tensor, shard: VocabShard, statistics: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Columns [rows, 1 or 5], the highest logit [rows], and the exponentials [rows, v] with their sum [rows]."""
    logits = _mask(logits, shard)
    highest = shard.all_reduce(logits.amax(-1), dist.ReduceOp.MAX)
    column, here = shard.local(labels)
    label_logit = logits.gather(1, column[:, None])[:, 0].where(here, 0.0)
    # A rank whose share is all padding has only minus infinities; exp gives 0, but 0 * -inf would be NaN below.
    # Without statistics nobody reads the logits again, and they make room for their exponentials.
    weights = _exponentials(logits.clone() if statistics else logits, highest)
    sums = [weights.sum(-1), label_logit]
    if statistics:
        real = logits[:, : shard.real]
        # As products and norms they need no tensor of the logits' size.
        sums += [torch.einsum("rv,rv->r", weights[:, : shard.real], real), real.sum(-1)]
        sums += [torch.linalg.vector_norm(weights, dim=-1).square()]
    summed = shard.all_reduce(torch.stack(sums, dim=-1))
    total = summed[:, 0]
    log_sum = highest + total.log()
    columns = [summed[:, 1] - log_sum]
    if statistics:
        hit = (summed[:, 1] >= highest).float()
        collision = summed[:, 4].log() - 2 * total.log()
        columns += [log_sum - summed[:, 2] / total, hit, summed[:, 3] / shard.vocab_size, collision]
    return torch.stack(columns, dim=-1), highest, total, weights
