"""Log-probabilities of labels straight from hidden rows: the output layer and log-softmax in one, by vocabulary shares.

Letters: R rows, h hidden, v real rows of the vocabulary's share here. Each share gives its largest logit, its sum of
exponentials and the label's logit; what is the same for the whole vocabulary is reduced over the shares by the caller's
`all_reduce`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from mindspeed_dpo.device.ops.kernels import Kernels, kernels_for
from mindspeed_dpo.device.ops.limits import HALF_DTYPES, check_dtypes, require

AllReduce = Callable[[Tensor, Any], Tensor]
"""Reduces a float32 tensor in place over the shares of the vocabulary, by SUM or MAX, and gives it back."""
OPERATORS = ("npu_fused_linear_online_max_sum", "npu_fused_linear_cross_entropy_loss_with_max_sum_backward")
FEWEST_ROWS = 128
"""Rows of the weight that the operators take at least."""


class Share(NamedTuple):
    """What one share of the vocabulary says of R labels.

    Attributes:
        highest: [R] float32, the largest logit.
        exp_sum: [R] float32, the sum of exp(logit - highest).
        label_logit: [R] float32, 0 where the label is elsewhere.
        elsewhere: Which labels are elsewhere, in the form that the backward half reads: bool [R], or bits of uint8.
        column: [R] int64, the label's row of the weight, any row where it is elsewhere.
    """

    highest: Tensor
    exp_sum: Tensor
    label_logit: Tensor
    elsewhere: Tensor
    column: Tensor


def alone(tensor: Tensor, _op: Any = None) -> Tensor:
    """The reduction over the one share that there is."""
    return tensor


def label_logps(hidden: Tensor, weight: Tensor, labels: Tensor, all_reduce: AllReduce = alone) -> Tensor:
    """Log softmax(hidden @ weight.T)[label] over all shares of the vocabulary.

    Args:
        hidden: [R, h], equal on all shares.
        weight: [v, h], this share's real rows.
        labels: [R] int64, the label's row of `weight`, or -1 where it is of another share.
        all_reduce: Over the shares.

    Returns:
        [R] float32, equal on all shares, with gradients for `hidden` (already summed over the shares) and `weight`.

    Raises:
        OperatorLimit: The device's operators do not take these; `has_kernel` tells beforehand.
    """
    kernels = kernels_for(hidden)
    fused = kernels if kernels is not None and kernels.has(*OPERATORS) else None
    result: Tensor = _LabelLogps.apply(hidden, weight, labels, all_reduce, fused)
    return result


def plain_label_logps(hidden: Tensor, weight: Tensor, labels: Tensor, all_reduce: AllReduce = alone) -> Tensor:
    """The definition of `label_logps`."""
    result: Tensor = _LabelLogps.apply(hidden, weight, labels, all_reduce, None)
    return result


def has_kernel(tensor: Tensor, fewest_rows: int) -> bool:
    """Whether the device has the operators, for this number format and for shares of at least so many rows."""
    kernels = kernels_for(tensor)
    fits = tensor.dtype in HALF_DTYPES and fewest_rows >= FEWEST_ROWS
    return kernels is not None and kernels.has(*OPERATORS) and fits


class _LabelLogps(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, all_reduce: AllReduce, kernels: Kernels | None
    ) -> Tensor:
        share = _plain_share(hidden, weight, labels) if kernels is None else _on_npu(kernels, hidden, weight, labels)
        highest = all_reduce(share.highest.clone(), dist.ReduceOp.MAX)
        exp_sum = share.exp_sum * (share.highest - highest).exp()
        exp_sum, label_logit = all_reduce(torch.stack((exp_sum, share.label_logit)), dist.ReduceOp.SUM).unbind()
        ctx.save_for_backward(hidden, weight, share.elsewhere, share.column, highest, exp_sum)
        ctx.all_reduce, ctx.kernels = all_reduce, kernels
        return label_logit - highest - exp_sum.log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        backward = _plain_backward if ctx.kernels is None else _backward_on_npu(ctx.kernels)
        # The operators know the loss, which is the log-probability turned round.
        grad_hidden, grad_weight = backward(-grad, *ctx.saved_tensors)
        summed = ctx.all_reduce(grad_hidden.float(), dist.ReduceOp.SUM).to(grad_hidden.dtype)
        return summed, grad_weight, None, None, None


def _plain_share(hidden: Tensor, weight: Tensor, labels: Tensor) -> Share:
    logits = hidden.float() @ weight.float().t()
    highest = logits.amax(-1)
    column, elsewhere = labels.clamp(min=0), labels < 0
    label_logit = logits.gather(1, column[:, None])[:, 0].masked_fill(elsewhere, 0)
    return Share(highest, (logits - highest[:, None]).exp().sum(-1), label_logit, elsewhere, column)


def _plain_backward(
    grad: Tensor, hidden: Tensor, weight: Tensor, elsewhere: Tensor, column: Tensor, highest: Tensor, exp_sum: Tensor
) -> tuple[Tensor, Tensor]:
    d_logits = (hidden.float() @ weight.float().t() - highest[:, None]).exp() / exp_sum[:, None]
    d_logits.scatter_add_(1, column[:, None], -(~elsewhere).float()[:, None])
    d_logits *= grad[:, None]
    return (d_logits @ weight.float()).to(hidden.dtype), (d_logits.t() @ hidden.float()).to(weight.dtype)


def _on_npu(kernels: Kernels, hidden: Tensor, weight: Tensor, labels: Tensor) -> Share:
    """`npu_fused_linear_online_max_sum`, in the form that keeps no logits.

    Nobody tells whether the end of its range is part of it. So labels are counted from this share's first row, and one
    of another share is put two past the last row: it is outside, and every label here is inside, either way.
    """
    name = OPERATORS[0]
    check_dtypes(name, hidden, weight, allowed=HALF_DTYPES)
    rows = len(weight)
    require(rows >= FEWEST_ROWS, name, f"at least {FEWEST_ROWS} tokens in a share", rows, "split the vocabulary less")
    inside = labels.where(labels >= 0, rows + 1)
    found = kernels.library.npu_fused_linear_online_max_sum(
        hidden.contiguous(), weight.contiguous(), inside, 0, rows, return_logits=False
    )
    return Share(*found[:5])


def _backward_on_npu(kernels: Kernels) -> Callable[..., tuple[Tensor, Tensor]]:
    """`npu_fused_linear_cross_entropy_loss_with_max_sum_backward`, which computes the logits once more."""

    def backward(
        grad: Tensor, hidden: Tensor, weight: Tensor, elsewhere: Tensor, column: Tensor, highest: Tensor, total: Tensor
    ) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = kernels.library.npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
            grad.contiguous(),
            hidden.contiguous(),
            weight.contiguous(),
            elsewhere,
            column,
            logits_max=highest,
            sum_exp_logits=total,
        )
        return found

    return backward
