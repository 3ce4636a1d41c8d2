"""bfloat16 products through float32: rounded once, differentiable, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mindspeed_dpo.device.bf16_emulation import is_bf16_emulated, multiply_in_float32

pytestmark = pytest.mark.numerics

multiply = multiply_in_float32(torch.Tensor.matmul)


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 5)])
def test_the_product_is_that_of_float64_rounded_once(shape: tuple[int, ...]) -> None:
    left, right = torch.randn(*shape).bfloat16(), torch.randn(5, 3).bfloat16()
    actual = multiply(left, right)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, (left.double() @ right.double()).bfloat16(), rtol=0.004, atol=1e-6)


def test_gradients_are_those_of_the_product() -> None:
    left, right = (torch.randn(4, 4).bfloat16().requires_grad_() for _ in range(2))
    weight = torch.randn(4, 4).bfloat16()
    multiply(left, right).backward(weight)
    assert left.grad is not None and right.grad is not None
    torch.testing.assert_close(left.grad, (weight.double() @ right.double().t()).bfloat16(), rtol=0.004, atol=1e-6)
    torch.testing.assert_close(right.grad, (left.double().t() @ weight.double()).bfloat16(), rtol=0.004, atol=1e-6)


def test_other_operands_go_through_as_they_are() -> None:
    seen: list[object] = []

    def product(*operands: object) -> torch.Tensor:
        seen.extend(operands)
        return torch.zeros(1)

    for left, right in (
        (torch.ones(2, 2), torch.ones(2, 2)),
        (torch.ones(2, 2).bfloat16(), torch.ones(2, 2)),
        (torch.ones(2, 2, dtype=torch.bfloat16, device="meta"), torch.ones(2, 2).bfloat16()),
    ):
        multiply_in_float32(product)(left, right)
        assert seen == [left, right] and seen[0] is left and seen[1] is right
        seen.clear()


@pytest.fixture
def detected_again() -> Iterator[None]:
    is_bf16_emulated.cache_clear()
    yield
    is_bf16_emulated.cache_clear()


@pytest.mark.parametrize("has_instruction", [False, True])
def test_a_processor_with_the_instruction_keeps_its_own_products(
    has_instruction: bool, detected_again: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_instruction, raising=False)
    assert is_bf16_emulated() is not has_instruction
