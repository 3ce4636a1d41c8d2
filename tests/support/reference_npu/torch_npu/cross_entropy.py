"""The fused linear cross-entropy of torch_npu 2.13 in plain torch: logits in float32, gradients rounded to the inputs'.

The documents do not say whether `vocab_end_index` is part of the range; `END_BELONGS` tries either. They call the mask
one of bits without saying which way round; here a set bit is a label of another share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rules import need, same_dtype

HALF = (torch.float16, torch.bfloat16)
END_BELONGS = [False]
_BITS = 2 ** torch.arange(8, dtype=torch.uint8)


def npu_fused_linear_online_max_sum(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    vocab_start_index: int,
    vocab_end_index: int,
    return_logits: bool = False,
) -> tuple[Tensor, ...]:
    name = "npu_fused_linear_online_max_sum"
    _check_inputs(name, input, weight)
    need(target.dim() == 1 and target.dtype in (torch.int32, torch.int64), f"{name}: target {target.dtype}")
    need(len(target) == len(input), f"{name}: {len(target)} targets for {len(input)} rows")
    need(0 <= vocab_start_index <= vocab_end_index, f"{name}: range {vocab_start_index} to {vocab_end_index}")
    logits = input.float() @ weight.float().t()
    highest = logits.amax(-1)
    inside = (target >= vocab_start_index) & (target < vocab_end_index + int(END_BELONGS[0]))
    column = (target - vocab_start_index).where(inside, 0)
    need(bool((column < len(weight)).all()), f"{name}: a target beyond the rows of the weight")
    label_logit = logits.gather(1, column.long()[:, None])[:, 0].where(inside, 0.0)
    sums = (logits - highest[:, None]).exp().sum(-1)
    returned_logits = logits.to(input.dtype) if return_logits else input.new_empty(0)
    return highest, sums, label_logit, _packed(~inside), column, returned_logits


def npu_fused_linear_cross_entropy_loss_with_max_sum_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    target_mask: Tensor,
    masked_target: Tensor,
    label_smoothing: float = 0.0,
    logits_max: Tensor | None = None,
    sum_exp_logits: Tensor | None = None,
    softmax: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    name = "npu_fused_linear_cross_entropy_loss_with_max_sum_backward"
    _check_inputs(name, input, weight)
    need(len(weight) >= 128, f"{name}: {len(weight)} rows of the weight")
    need(grad.dtype == torch.float32 and grad.shape == input.shape[:1], f"{name}: grad {grad.dtype} {grad.shape}")
    need(target_mask.dtype == torch.uint8 and len(target_mask) == -(-len(input) // 8), f"{name}: no mask of bits")
    need(label_smoothing == 0 and softmax is None, f"{name}: only the form without softmax is used")
    if logits_max is None or sum_exp_logits is None:
        raise ValueError(f"{name}: without softmax it needs logits_max and sum_exp_logits")
    d_logits = (input.float() @ weight.float().t() - logits_max[:, None]).exp() / sum_exp_logits[:, None]
    elsewhere = _unpacked(target_mask, len(input))
    d_logits.scatter_add_(1, masked_target.long()[:, None], -(~elsewhere).float()[:, None])
    d_logits = d_logits * grad[:, None]
    return (d_logits @ weight.float()).to(input.dtype), (d_logits.t() @ input.float()).to(input.dtype)


def _check_inputs(name: str, input: Tensor, weight: Tensor) -> None:
    same_dtype(name, input, weight, allowed=HALF)
    need(input.dim() == weight.dim() == 2 and input.shape[1] == weight.shape[1], f"{name}: {input.shape}")
    need(input.is_contiguous() and weight.is_contiguous(), f"{name}: a tensor is not contiguous")


def _packed(flags: Tensor) -> Tensor:
    """[ceil(N / 8)] uint8, the first flag in the lowest bit."""
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -len(flags) % 8)).reshape(-1, 8)
    return (padded * _BITS).sum(-1, dtype=torch.uint8)


def _unpacked(bits: Tensor, length: int) -> Tensor:
    return (bits[:, None] & _BITS).bool().flatten()[:length]
