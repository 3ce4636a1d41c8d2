"""Products of bfloat16 matrices on processors that have no instruction for them.

torch then multiplies them in a plain loop, at 1 to 19 GFLOP/s by one core where the same core reaches 80 in float32. To
make float32 of both operands, multiply, and round once is faster and no less exact: sums are in float32 either way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def are_wanted() -> bool:
    """Whether this processor multiplies bfloat16 faster as float32."""
    has_instruction = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return has_instruction is not None and not has_instruction()


def is_wanted_for(operand: Tensor) -> bool:
    """Whether products of this tensor are faster in float32."""
    return _is_narrow(operand) and are_wanted()


def widened(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A matrix product that takes bfloat16 operands on the host as float32; its result is bfloat16 as before."""

    def multiply(left: Tensor, right: Any, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not (_is_narrow(left) and _is_narrow(right)):
            return product(left, right, *args, **kwargs)
        return product(left.float(), right.float()).to(torch.bfloat16)

    return multiply


def _is_narrow(operand: Any) -> bool:
    return isinstance(operand, Tensor) and operand.dtype == torch.bfloat16 and operand.device.type == "cpu"
