"""Log-probabilities of labels from hidden states: output layer and log-softmax in one, over vocabulary shards.

Notation: R rows, h hidden size, v unpadded rows of this rank's vocabulary shard. Each shard computes its largest logit,
its sum of exponentials and the label's logit; the caller's `all_reduce` reduces them over the shards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.operator_limits import HALF_DTYPES, check_dtypes, require

AllReduce = Callable[[Tensor, Any], Tensor]
"""Reduces a float32 tensor in place over the vocabulary shards, by SUM or MAX, and returns it."""
OPERATORS = ("npu_fused_linear_online_max_sum", "npu_fused_linear_cross_entropy_loss_with_max_sum_backward")
MIN_ROWS = 128
"""Minimum number of rows of the weight that the operators support."""


class ShardSoftmax(NamedTuple):
    """Softmax statistics of one vocabulary shard for R labels.

    Attributes:
        highest: [R] float32, the largest logit.
        exp_sum: [R] float32, the sum of exp(logit - highest).
        label_logit: [R] float32, the label's logit; 0 for labels of other shards.
        elsewhere: Mask of labels of other shards in the form that backward needs: [R] bool, or bits of uint8.
        column: [R] int64, the label's row of the weight; arbitrary for labels of other shards.
    """

    highest: Tensor
    exp_sum: Tensor
    label_logit: Tensor
    elsewhere: Tensor
    column: Tensor


def no_reduction(tensor: Tensor, _op: Any = None) -> Tensor:
    """Return values of any shape, dtype and any unit unchanged: the reduction over a single shard."""
    return tensor


def label_logps(hidden: Tensor, weight: Tensor, labels: Tensor, all_reduce: AllReduce = no_reduction) -> Tensor:
    """Compute log softmax(hidden @ weight.T)[label] over all vocabulary shards.

    Args:
        hidden: [R, h] hidden states of any float dtype, equal on all shards.
        weight: [v, h], the unpadded rows of this shard.
        labels: [R] int64, the label's row of `weight`, or -1 for labels of other shards.
        all_reduce: Reduction over the shards.

    Returns:
        Log-probabilities [R] float32 in nats, equal on all shards, with gradients for `hidden` (summed over the shards)
        and `weight`.

    Raises:
        OperatorLimit: The device's operators do not support these inputs; `has_kernel` checks it in advance.
    """
    kernels = kernels_for(hidden)
    fused = kernels if kernels is not None and kernels.has(*OPERATORS) else None
    result: Tensor = _LabelLogps.apply(hidden, weight, labels, all_reduce, fused)
    return result


def plain_label_logps(hidden: Tensor, weight: Tensor, labels: Tensor, all_reduce: AllReduce = no_reduction) -> Tensor:
    """Compute `label_logps` in plain torch: log-probabilities [R] float32 in nats."""
    result: Tensor = _LabelLogps.apply(hidden, weight, labels, all_reduce, None)
    return result


def has_kernel(tensor: Tensor, min_rows: int) -> bool:
    """Return whether the device has operators for activations of this dtype, any shape, and shards of `min_rows`."""
    kernels = kernels_for(tensor)
    fits = tensor.dtype in HALF_DTYPES and min_rows >= MIN_ROWS
    return kernels is not None and kernels.has(*OPERATORS) and fits


class _LabelLogps(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, all_reduce: AllReduce, kernels: Kernels | None
    ) -> Tensor:
        local = (
            _plain_shard_softmax(hidden, weight, labels)
            if kernels is None
            else _on_npu(kernels, hidden, weight, labels)
        )
        highest = all_reduce(local.highest.clone(), dist.ReduceOp.MAX)
        exp_sum = local.exp_sum * (local.highest - highest).exp()
        exp_sum, label_logit = all_reduce(torch.stack((exp_sum, local.label_logit)), dist.ReduceOp.SUM).unbind()
        ctx.save_for_backward(hidden, weight, local.elsewhere, local.column, highest, exp_sum)
        ctx.all_reduce, ctx.kernels = all_reduce, kernels
        return label_logit - highest - exp_sum.log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        backward = _plain_backward if ctx.kernels is None else _backward_on_npu(ctx.kernels)
        # The operators take the gradient of the loss, the negative log-probability.
        grad_hidden, grad_weight = backward(-grad, *ctx.saved_tensors)
        summed = ctx.all_reduce(grad_hidden.float(), dist.ReduceOp.SUM).to(grad_hidden.dtype)
        return summed, grad_weight, None, None, None


def _plain_shard_softmax(hidden: Tensor, weight: Tensor, labels: Tensor) -> ShardSoftmax:
    logits = hidden.float() @ weight.float().t()
    highest = logits.amax(-1)
    column, elsewhere = labels.clamp(min=0), labels < 0
    label_logit = logits.gather(1, column[:, None])[:, 0].masked_fill(elsewhere, 0)
    return ShardSoftmax(highest, (logits - highest[:, None]).exp().sum(-1), label_logit, elsewhere, column)


def _plain_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, elsewhere: Tensor, column: Tensor, highest: Tensor, exp_sum: Tensor
) -> tuple[Tensor, Tensor]:
    d_logits = (hidden.float() @ weight.float().t() - highest[:, None]).exp() / exp_sum[:, None]
    d_logits.scatter_add_(1, column[:, None], -(~elsewhere).float()[:, None])
    d_logits *= grad[:, None]
    return (d_logits @ weight.float()).to(hidden.dtype), (d_logits.t() @ hidden.float()).to(weight.dtype)


def _on_npu(kernels: Kernels, hidden: Tensor, weight: Tensor, labels: Tensor) -> ShardSoftmax:
    """Call `npu_fused_linear_online_max_sum` in the form that stores no logits.

    The documentation does not say whether the end of its range is inclusive. Labels are therefore counted from the
    first row of this shard, and labels of other shards are set to two past its last row, outside in both cases.
    """
    name = OPERATORS[0]
    check_dtypes(name, hidden, weight, allowed=HALF_DTYPES)
    rows = len(weight)
    require(
        rows >= MIN_ROWS, name, f"at least {MIN_ROWS} tokens in a vocabulary shard", rows, "split the vocabulary less"
    )
    inside = labels.where(labels >= 0, rows + 1)
    statistics = kernels.library.npu_fused_linear_online_max_sum(
        hidden.contiguous(), weight.contiguous(), inside, 0, rows, return_logits=False
    )
    return ShardSoftmax(*statistics[:5])


def _backward_on_npu(kernels: Kernels) -> Callable[..., tuple[Tensor, Tensor]]:
    """`npu_fused_linear_cross_entropy_loss_with_max_sum_backward`, which computes the logits once more."""

    def backward(
        grad: Tensor, hidden: Tensor, weight: Tensor, elsewhere: Tensor, column: Tensor, highest: Tensor, total: Tensor
    ) -> tuple[Tensor, Tensor]:
        gradients: tuple[Tensor, Tensor] = kernels.library.npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
            grad.contiguous(),
            hidden.contiguous(),
            weight.contiguous(),
            elsewhere,
            column,
            logits_max=highest,
            sum_exp_logits=total,
        )
        return gradients

    return backward
