"""Each operator of `device.ops` on the device against its plain definition in float32 on the CPU; asked is `kind`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mindspeed_dpo.device import ops
from mindspeed_dpo.doctor.processes import answer, question

ALLOWED = {torch.bfloat16: 2e-2, torch.float32: 1e-3}
"""Largest error, as a share of the largest value; that of bfloat16 is what a first look at a device should accept."""
QUERIES, KEYS = [17, 5, 40, 1], [17, 22, 57, 18]
HEADS, GROUPS, WIDTH, WINDOW = 8, 2, 64, 9


@dataclass(frozen=True)
class Case:
    """An operator with inputs.

    Attributes:
        operator: Name in `device.ops`.
        variant: What is special about it, for the report.
        shapes: Of the tensors that have a gradient, in the dtype that is tried.
        call: Calls the operator with these tensors.
        dtypes: In which it is tried.
    """

    operator: str
    variant: str
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Tensor]
    dtypes: tuple[torch.dtype, ...] = tuple(ALLOWED)

    @property
    def name(self) -> str:
        """For the report."""
        return f"{self.operator} {self.variant}".strip()


def _attention(window: int | None) -> Callable[..., Tensor]:
    return lambda q, k, v: ops.segment_attention(q, k, v, QUERIES, KEYS, WIDTH**-0.5, window)


def _rotate(x: Tensor) -> Tensor:
    angles = torch.arange(len(x), dtype=torch.float32)[:, None] * 10.0 ** -torch.linspace(0, 4, WIDTH // 2)
    both = torch.cat((angles, angles), -1)
    return ops.rotate(x, both.cos().to(x.device), both.sin().to(x.device))


def _label_logps(hidden: Tensor, weight: Tensor) -> Tensor:
    """Labels of this share and, as -1, of others."""
    return ops.label_logps(hidden, weight, (torch.arange(len(hidden)) * 7 % len(weight) - 1).to(hidden.device))


def _segment_sum(values: Tensor) -> Tensor:
    """Segments as long as the attention's, one of none."""
    lengths = torch.tensor([0, *QUERIES])
    ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    return ops.segment_sum(values, ids.to(values.device), lengths.to(values.device))


_KEYS_SHAPE = (sum(KEYS), GROUPS, WIDTH)
_ATTENTION_SHAPES = ((sum(QUERIES), HEADS, WIDTH), _KEYS_SHAPE, _KEYS_SHAPE)
FOR_GENERATION = frozenset(
    {"block_attention", "few_rows_product", "rows_to_multiply", "BlockAttention", "Product", "VisibleKeys"}
)
"""Names of `device.ops` that take no gradient; their forms are compared by the tests of generation."""
CASES = (
    Case("rms_norm", "", ((63, 256), (256,)), lambda x, weight: ops.rms_norm(x, weight, 1e-5)),
    Case("linear", "", ((63, 256), (128, 256)), lambda x, weight: ops.linear(weight, None, x)),
    # torch_npu's operators take half precision only; where it has none, the plain form serves.
    Case("label_logps", "", ((63, 64), (259, 64)), _label_logps, (torch.bfloat16,)),
    Case("swiglu", "", ((63, 512),), lambda x: ops.swiglu(x)),
    Case("rotate", "", ((63, HEADS, WIDTH),), _rotate),
    Case("segment_sum", "", ((sum(QUERIES),),), _segment_sum, (torch.float32,)),
    Case("total", "", ((1000, 3),), lambda x: ops.total(x), (torch.float32,)),
    Case("segment_attention", "", _ATTENTION_SHAPES, _attention(None)),
    Case("segment_attention", "windowed", _ATTENTION_SHAPES, _attention(WINDOW)),
)


def definition(case: Case, dtype: torch.dtype) -> list[Tensor]:
    """Compute result and gradients of a case in float32 values of its shapes ([T, heads, d] …) on the CPU.

    Call it before the device is activated, whose patches might affect it.
    """
    return _both_ways(case, [tensor.float() for tensor in _inputs(case, dtype)])


def distance(case: Case, dtype: torch.dtype, device: torch.device, expected: list[Tensor]) -> float:
    """Return the largest error of result and gradients, each relative to its largest value.

    Args:
        case: The operator and the shapes of its inputs.
        dtype: dtype of the inputs.
        device: The device to test.
        expected: Result and gradients of `definition`: float32 values of the same shape.
    """
    found = _both_ways(case, [tensor.to(device) for tensor in _inputs(case, dtype)])
    return max(_distance(one, other) for one, other in zip(found, expected, strict=True))


def _inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(case.name))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in case.shapes]


def _both_ways(case: Case, inputs: list[Tensor]) -> list[Tensor]:
    """The result, and the gradients of a sum that weighs each of its values differently."""
    leaves = [tensor.requires_grad_() for tensor in inputs]
    result = case.call(*leaves)
    weights = torch.linspace(0.5, 1.5, result.numel()).view(result.shape).to(result.device, result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, weights)]


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.float().cpu()
    error = (found.float().cpu() - expected).abs().max() / expected.abs().max()
    # The largest of numbers and of what is none would depend on their order.
    return float(error) if bool(torch.isfinite(error)) else float("inf")


def compare(activate: Callable[[], torch.device]) -> Iterator[dict[str, Any]]:
    """Every operator in every number format: `name`, `dtype`, `error` (null where it is not finite), `allowed`.

    Args:
        activate: Makes the device active and gives it.
    """
    expected = {(case, dtype): definition(case, dtype) for case in CASES for dtype in case.dtypes}
    device = activate()
    for (case, dtype), values in expected.items():
        error = distance(case, dtype, device, values)
        told = error if error != float("inf") else None
        yield {"name": case.name, "dtype": str(dtype).removeprefix("torch."), "error": told, "allowed": ALLOWED[dtype]}


if __name__ == "__main__":
    device = importlib.import_module("mindspeed_dpo.device")
    answer(list(compare(lambda: device.activate(question()["kind"]).device())))
