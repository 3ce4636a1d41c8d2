"""Probe that compares each operator of `device.ops` with its plain definition in float32 on the CPU.

Argument: `kind`. Result: a list of comparisons, see `compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.device import activate, ops
from mindspeed_dpo.doctor.probe_processes import print_result, probe_arguments

TOLERANCES = {torch.bfloat16: 2e-2, torch.float32: 1e-3}
"""Largest accepted error, relative to the largest value. The one of bfloat16 is not yet measured on a device."""
QUERIES, KEYS = [17, 5, 40, 1], [17, 22, 57, 18]
NUM_HEADS, NUM_GROUPS, HEAD_DIM, WINDOW = 8, 2, 64, 9


@dataclass(frozen=True)
class OperatorCase:
    """An operator and its inputs.

    Example:
        OperatorCase("swiglu", "", ((63, 512),), lambda x: ops.swiglu(x))

    Attributes:
        operator: Name in `device.ops`.
        variant: Name of the variant, for the report.
        shapes: Shapes of the inputs that have a gradient.
        call: Calls the operator with these inputs.
        dtypes: dtypes of the inputs, one comparison each.
    """

    operator: str
    variant: str
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Tensor]
    dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCES)

    @property
    def name(self) -> str:
        """Name of the case in the report."""
        return f"{self.operator} {self.variant}".strip()


def _attention(window: int | None) -> Callable[..., Tensor]:
    return lambda q, k, v: ops.segment_attention(q, k, v, QUERIES, KEYS, HEAD_DIM**-0.5, window)


def _rotate(x: Tensor) -> Tensor:
    angles = torch.arange(len(x), dtype=torch.float32)[:, None] * 10.0 ** -torch.linspace(0, 4, HEAD_DIM // 2)
    both = torch.cat((angles, angles), -1)
    return ops.rotate(x, both.cos().to(x.device), both.sin().to(x.device))


def _label_logps(hidden: Tensor, weight: Tensor) -> Tensor:
    """Use labels of this vocabulary shard and, as -1, of others."""
    return ops.label_logps(hidden, weight, (torch.arange(len(hidden)) * 7 % len(weight) - 1).to(hidden.device))


def _segment_sum(values: Tensor) -> Tensor:
    """Use the segment lengths of the attention and an empty segment."""
    lengths = torch.tensor([0, *QUERIES])
    ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return ops.segment_sum(values, ids.to(values.device), lengths.to(values.device))


def _grouped_linear(rows: Tensor, weight: Tensor) -> Tensor:
    """Give the matrices unequal numbers of rows, one of them none."""
    return ops.grouped_linear(rows, weight, torch.tensor([40, 0, 1, len(rows) - 41], device=rows.device))


_KEYS_SHAPE = (sum(KEYS), NUM_GROUPS, HEAD_DIM)
_ATTENTION_SHAPES = ((sum(QUERIES), NUM_HEADS, HEAD_DIM), _KEYS_SHAPE, _KEYS_SHAPE)
CASES = (
    OperatorCase("rms_norm", "", ((63, 256), (256,)), lambda x, weight: ops.rms_norm(x, weight, 1e-5)),
    OperatorCase("linear", "", ((63, 256), (128, 256)), lambda x, weight: ops.linear(weight, None, x)),
    # torch_npu's operators take half precision only; without them the plain form is used.
    OperatorCase("label_logps", "", ((63, 64), (259, 64)), _label_logps, (torch.bfloat16,)),
    OperatorCase("grouped_linear", "", ((63, 64), (4, 128, 64)), _grouped_linear),
    OperatorCase("swiglu", "", ((63, 512),), lambda x: ops.swiglu(x)),
    OperatorCase("rotate", "", ((63, NUM_HEADS, HEAD_DIM),), _rotate),
    OperatorCase("segment_sum", "", ((sum(QUERIES),),), _segment_sum, (torch.float32,)),
    OperatorCase("total", "", ((1000, 3),), lambda x: ops.total(x), (torch.float32,)),
    OperatorCase("segment_attention", "", _ATTENTION_SHAPES, _attention(None)),
    OperatorCase("segment_attention", "windowed", _ATTENTION_SHAPES, _attention(WINDOW)),
)


def expected_values(case: OperatorCase, dtype: torch.dtype) -> list[Tensor]:
    """Compute the result and gradients of a case on the CPU: float32 values of its shapes, such as [T, heads, d].

    Call it before the device is activated, whose patches might affect it.
    """
    return _result_and_gradients(case, [tensor.float() for tensor in _inputs(case, dtype)])


def max_relative_error(case: OperatorCase, dtype: torch.dtype, device: torch.device, expected: list[Tensor]) -> float:
    """Return the largest error of result and gradients, each relative to its largest value.

    Args:
        case: The operator and the shapes of its inputs.
        dtype: dtype of the inputs.
        device: The device to test.
        expected: Result of `expected_values`: float32 values of the same shape.
    """
    actual = _result_and_gradients(case, [tensor.to(device) for tensor in _inputs(case, dtype)])
    return max(_relative_error(one, other) for one, other in zip(actual, expected, strict=True))


def _inputs(case: OperatorCase, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(case.name))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in case.shapes]


def _result_and_gradients(case: OperatorCase, inputs: list[Tensor]) -> list[Tensor]:
    """Return the result and the gradients of a weighted sum of its values, all weights different."""
    leaves = [tensor.requires_grad_() for tensor in inputs]
    result = case.call(*leaves)
    weights = torch.linspace(0.5, 1.5, result.numel()).view(result.shape).to(result.device, result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, weights)]


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    expected = expected.float().cpu()
    error = (actual.float().cpu() - expected).abs().max() / expected.abs().max()
    # `max` over values that include NaN would depend on their order.
    return float(error) if bool(torch.isfinite(error)) else float("inf")


def compare(activate_device: Callable[[], torch.device]) -> Iterator[dict[str, Any]]:
    """Compare every operator in every dtype: `name`, `dtype`, `error` (None if not finite) and `tolerance`.

    Args:
        activate_device: Activates the device and returns it.
    """
    expected = {(case, dtype): expected_values(case, dtype) for case in CASES for dtype in case.dtypes}
    device = activate_device()
    for (case, dtype), values in expected.items():
        error = max_relative_error(case, dtype, device, values)
        yield {
            "name": case.name,
            "dtype": str(dtype).removeprefix("torch."),
            "error": error if error != float("inf") else None,
            "tolerance": TOLERANCES[dtype],
        }


if __name__ == "__main__":
    print_result(list(compare(lambda: activate(probe_arguments()["kind"]).device())))
