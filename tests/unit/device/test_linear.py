"""Products of few rows: both forms agree, and the plain one stands in where the other is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.device.ops import few_rows_product, linear, rows_to_multiply
from mindspeed_dpo.device.ops.decode_row_counts import at_least, equal_row_counts

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


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_number_of_rows(dtype: torch.dtype, with_bias: bool) -> None:
    x, weight = torch.randn(32, 320).to(dtype), torch.randn(200, 320).to(dtype)
    product = few_rows_product(weight, torch.randn(200).to(dtype) if with_bias else None, 32)
    complete = product(x)
    for first in (0, 7):
        for last in range(first + 1, 33):
            assert torch.equal(product(x[first:last]), complete[first:last]), (first, last)


def test_numbers_of_rows_with_other_bits_are_not_used() -> None:
    """A kernel for few rows, and one for an even number of them, that add terms in another order."""

    def multiply(x: Tensor) -> Tensor:
        terms = x * weight[0]
        parts = [terms] if len(x) in (3, 8, 16, 48) else terms.chunk(2, dim=1)
        return sum(part.sum(1, keepdim=True) for part in parts)

    weight = torch.randn(1, 96)
    assert equal_row_counts(multiply, weight, fixed=16, largest=48) == (3, 8, 16, 48)
    assert [at_least((3, 8, 16), rows) for rows in (1, 3, 4, 16, 17)] == [3, 3, 8, 16, 16]


def test_weights_of_zeros_show_nothing_about_others() -> None:
    weight = torch.zeros(2, 77)
    assert equal_row_counts(lambda x: x @ weight.t(), weight, fixed=16, largest=48) == (16,)
    weight = torch.randn(2, 77)
    assert len(equal_row_counts(lambda x: (x[:, :, None] * weight.t()).sum(1), weight, fixed=16, largest=48)) > 1


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
