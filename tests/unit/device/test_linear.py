"""Products of few rows: both forms agree, and the plain one stands in where the other is missing."""

from __future__ import annotations

import pytest
import torch

from mindspeed_dpo.device.ops import few_rows_product, linear, rows_to_multiply

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize("rows", [1, 16, 32])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_forms_agree(dtype: torch.dtype, with_bias: bool, rows: int) -> None:
    x, weight = torch.randn(rows, 96).to(dtype), torch.randn(200, 96).to(dtype)
    bias = torch.randn(200).to(dtype) if with_bias else None
    actual = few_rows_product(weight, bias, rows)(x)
    torch.testing.assert_close(actual, linear(weight, bias, x))
    torch.testing.assert_close(linear(weight, bias, x), torch.nn.functional.linear(x, weight, bias))


def test_rows_in_any_memory_order_give_the_same() -> None:
    x, weight = torch.randn(96, 16).t(), torch.randn(200, 96)
    product = few_rows_product(weight, None, 16)
    assert torch.equal(product(x), product(x.contiguous()))


def test_products_have_few_different_numbers_of_rows() -> None:
    weight = torch.randn(8, 8)
    filled = [rows_to_multiply(rows, weight) for rows in range(1, 2049)]
    assert all(rows <= more <= max(rows + 7, 1.125 * rows) for rows, more in enumerate(filled, 1))
    assert len(set(filled)) <= 50
    assert rows_to_multiply(37, weight.double()) == 37


def test_a_torch_without_the_blocked_form_uses_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(16, 96), torch.randn(200, 96)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert torch.equal(few_rows_product(weight, None, 16)(x), linear(weight, None, x))
