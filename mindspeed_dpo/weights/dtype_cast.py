"""Data types of converted weights: as they are, or cast by wish with overflow reported."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mindspeed_dpo.weights.errors import WeightsError

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The router's balance counts lose their meaning in 16 bits.
_ALWAYS_FP32 = "expert_bias"


@dataclass
class Tally:
    """What has been written so far; `dtypes` counts tensors by data type."""

    num_tensors: int = 0
    num_bytes: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> None:
        """Count one tensor."""
        self.num_tensors += 1
        self.num_bytes += tensor.nbytes
        name = str(tensor.dtype)
        self.dtypes[name] = self.dtypes.get(name, 0) + 1

    @property
    def dtype(self) -> str:
        """The most frequent data type, such as "torch.bfloat16"."""
        return max(self.dtypes, key=lambda name: self.dtypes[name])


def cast(tensor: Tensor, dtype: torch.dtype | None, name: str) -> Tensor:
    """The tensor in the wanted type, owning its memory (a saved view would drag its whole storage along).

    Args:
        tensor: Any shape.
        dtype: The wanted type, or None to keep the tensor's own.
        name: For messages.

    Raises:
        WeightsError: Finite values would become infinite.
    """
    wanted = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    if name.endswith(_ALWAYS_FP32):
        wanted = torch.float32
    if wanted == tensor.dtype:
        return tensor.clone(memory_format=torch.contiguous_format)
    result = tensor.to(wanted).contiguous()
    if bool((~result.isfinite() & tensor.isfinite()).any()):
        largest = tensor[tensor.isfinite()].abs().max().item()
        raise WeightsError(f"{name} holds {largest:.3g}, which does not fit {wanted}; choose bf16 or fp32")
    return result
