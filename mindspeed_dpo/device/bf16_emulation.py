"""bfloat16 matrix products on processors without bfloat16 instructions.

torch computes them in a scalar loop, at 1 to 19 GFLOP/s on a core that reaches 80 in float32. Converting both operands
to float32 and rounding the result once is faster and equally exact, since sums are formed in float32 either way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=1)
def is_bf16_emulated() -> bool:
    """Return whether this processor multiplies bfloat16 faster in float32."""
    has_instruction = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return has_instruction is not None and not has_instruction()


def is_faster_in_float32(operand: Tensor) -> bool:
    """Return whether matrix products with this operand, of any shape, dtype and any unit, are faster in float32."""
    return _is_narrow(operand) and is_bf16_emulated()


def multiply_in_float32(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a matrix product so that bfloat16 operands on the host are multiplied in float32.

    Operands [M, K] and [K, N], activations or weights, give [M, N] bfloat16 as before; others are passed through.
    """

    def multiply(left: Tensor, right: Any, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not (_is_narrow(left) and _is_narrow(right)):
            return product(left, right, *args, **kwargs)
        return product(left.float(), right.float()).to(torch.bfloat16)

    return multiply


def _is_narrow(operand: Any) -> bool:
    return isinstance(operand, Tensor) and operand.dtype == torch.bfloat16 and operand.device.type == "cpu"
