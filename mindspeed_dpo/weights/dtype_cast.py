"""The dtype of converted weights: unchanged, or cast with a check for overflow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mindspeed_dpo.weights.errors import WeightsError

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The load-balancing bias of routers loses its meaning in 16 bits.
_ALWAYS_FP32 = ("expert_bias", "e_score_correction_bias")


@dataclass
class TensorCounts:
    """Number and size of the tensors written so far.

    Attributes:
        num_tensors: Tensors written.
        num_bytes: Their size.
        dtypes: Number of tensors of each dtype, such as {"torch.bfloat16": 27}.
    """

    num_tensors: int = 0
    num_bytes: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)

    def add(self, tensor: Tensor) -> None:
        """Count one tensor of weights, of any shape and dtype."""
        self.add_bytes(tensor.nbytes, tensor.dtype)

    def add_bytes(self, num_bytes: int, dtype: torch.dtype) -> None:
        """Count one tensor of a size and data type."""
        self.num_tensors += 1
        self.num_bytes += num_bytes
        self.dtypes[str(dtype)] += 1

    @property
    def most_common_dtype(self) -> str:
        """The dtype of most tensors, such as "torch.bfloat16"."""
        return self.dtypes.most_common(1)[0][0]


def cast_tensor(tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
    """Cast weights to a dtype, in memory of their own (saving a view would save its entire storage).

    Args:
        tensor: Any shape.
        dtype: The dtype to cast to, or None to preserve the tensor's own.
        name: For messages.

    Raises:
        WeightsError: Finite values would become infinite.
    """
    target = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    if name.endswith(_ALWAYS_FP32):
        target = torch.float32
    if target == tensor.dtype:
        return tensor.clone(memory_format=torch.contiguous_format)
    result = tensor.to(target).contiguous()
    if bool((~result.isfinite() & tensor.isfinite()).any()):
        largest = tensor[tensor.isfinite()].abs().max().item()
        raise WeightsError(f"{name} holds {largest:.3g}, which overflows {target}; use bf16 or fp32")
    return result
