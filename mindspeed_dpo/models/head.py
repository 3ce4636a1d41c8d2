"""The log-probability head: LM head and log-softmax in one, by chunks of rows, split over the vocabulary.

Logits exist for one chunk at a time and are recomputed in backward, so memory does not grow with tokens x vocabulary.
Letters: R rows, h hidden, V vocabulary, v this rank's share of the padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import ColumnParallelLinear
from torch import Tensor

from mindspeed_dpo.device.ops import label_logps

# Columns of the head's result.
LOGP, ENTROPY, HIT, MEAN_LOGIT, LOG_COLLISION = range(5)
CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class VocabShard:
    """This tensor rank's share of the vocabulary.

    Attributes:
        start: First token id of the share.
        size: Rows of the weight here, padding included.
        vocab_size: True V; ids from V on are padding and take no probability.
        group: Tensor-parallel group, or None when there is one rank.
    """

    start: int
    size: int
    vocab_size: int
    group: Any = None

    @property
    def real(self) -> int:
        """Columns of this share that are real tokens."""
        return self._real_from(self.start)

    @property
    def fewest_real(self) -> int:
        """Real columns of the share that has the fewest, which is the last one."""
        return self._real_from(self.size * (1 if self.group is None else dist.get_world_size(self.group)) - self.size)

    def _real_from(self, start: int) -> int:
        return max(0, min(self.size, self.vocab_size - start))

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Reduce in place over the tensor ranks."""
        if self.group is not None:
            dist.all_reduce(tensor, op, self.group)
        return tensor

    def local(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Column of each label here (0 when it is elsewhere) and whether it is here."""
        column = labels - self.start
        here = (column >= 0) & (column < self.size)
        return column.where(here, 0), here


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
        scores: Tensor = _LogProbs.apply(hidden, weight, labels, shard, statistics)
        return scores

    def logits(self, hidden: Tensor, weight: Tensor | None = None) -> Tensor:
        """This rank's share of the logits [R, v] of hidden rows [R, h], padding included; no gradient."""
        with torch.no_grad():
            return hidden @ (self.weight if weight is None else weight).t()


class _LogProbs(torch.autograd.Function):
    """log softmax(hidden @ weight.T)[label], without keeping the softmax."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, shard: VocabShard, statistics: bool
    ) -> Tensor:
        scored = [
            _score_chunk(h @ weight.t(), y, shard, statistics)
            for h, y in zip(*(_chunks(t, shard) for t in (hidden, labels)), strict=True)
        ]
        columns, log_sums = (torch.cat(parts) for parts in zip(*scored, strict=True))
        ctx.save_for_backward(hidden, weight, labels, log_sums)
        ctx.shard = shard
        return columns

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:  # type: ignore[override]
        hidden, weight, labels, log_sums = ctx.saved_tensors
        shard: VocabShard = ctx.shard
        grad_hidden = torch.empty_like(hidden, dtype=torch.float32)
        # Summed in float32 over chunks and rounded once: rounding each chunk biases low-precision training.
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        pieces = zip(*(_chunks(t, shard) for t in (hidden, labels, log_sums, grad[:, LOGP], grad_hidden)), strict=True)
        for h, y, log_sum, g, out in pieces:
            # In place throughout: a new tensor of this size costs the host more than the arithmetic on it.
            probs = _mask(h @ weight.t(), shard).sub_(log_sum[:, None]).exp_()
            column, here = shard.local(y)
            probs.scatter_add_(1, column[:, None], -here.to(probs.dtype)[:, None])
            d_logits = probs.mul_(-g[:, None]).to(weight.dtype)
            out.copy_(d_logits @ weight)
            if grad_weight is not None:
                _add_product(grad_weight, d_logits.t(), h)
        summed = None if grad_weight is None else grad_weight.to(weight.dtype)
        return shard.all_reduce(grad_hidden).to(hidden.dtype), summed, None, None, None


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


def _score_chunk(logits: Tensor, labels: Tensor, shard: VocabShard, statistics: bool) -> tuple[Tensor, Tensor]:
    """Columns [rows, 1 or 5] and log-sum-exp [rows] of one chunk."""
    logits = _mask(logits, shard)
    highest = shard.all_reduce(logits.amax(-1), dist.ReduceOp.MAX)
    column, here = shard.local(labels)
    label_logit = logits.gather(1, column[:, None])[:, 0].where(here, 0.0)
    # A rank whose share is all padding has only minus infinities; exp gives 0, but 0 * -inf would be NaN below.
    # Without statistics nobody reads the logits again, and they make room for their exponentials.
    weights = (logits - highest[:, None] if statistics else logits.sub_(highest[:, None])).exp_()
    sums = [weights.sum(-1), label_logit]
    if statistics:
        real = logits[:, : shard.real]
        sums += [(weights[:, : shard.real] * real).sum(-1), real.sum(-1), weights.square().sum(-1)]
    total = shard.all_reduce(torch.stack(sums, dim=-1))
    log_sum = highest + total[:, 0].log()
    logp = total[:, 1] - log_sum
    if not statistics:
        return logp[:, None], log_sum
    entropy = log_sum - total[:, 2] / total[:, 0]
    hit = (total[:, 1] >= highest).float()
    collision = total[:, 4].log() - 2 * total[:, 0].log()
    return torch.stack((logp, entropy, hit, total[:, 3] / shard.vocab_size, collision), dim=-1), log_sum
