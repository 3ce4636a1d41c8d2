"""Sums against float64: of segments, of rows, of squares, as every device forms them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mindspeed_dpo.device.ops import segment_sum, total
from mindspeed_dpo.device.ops.kernels import Kernels, use
from mindspeed_dpo.device.ops.sums import (
    pairwise_segment_sum,
    pairwise_total,
    plain_segment_sum,
    sum_dtype,
    sum_of_squares,
)

SegmentSum = Callable[[Tensor, Tensor, Tensor], Tensor]
BOUND = 1e-6
"""Relative. Terms of one sign that are added in pairs are off by log2(16000) / 2 half units at most, 4e-7."""
LENGTHS = torch.tensor([1, 0, 2, 3, 16000, 83, 1000, 0, 4000, 15999, 1, 16384, 16385, 5, 0])
IDS = torch.repeat_interleave(torch.arange(len(LENGTHS)), LENGTHS)
FORMS: dict[str, SegmentSum] = {"float64": plain_segment_sum, "pairwise": pairwise_segment_sum}
DTYPES = {"float64": torch.float64, "pairwise": torch.float32}


def log_probs(count: int) -> Tensor:
    """[count] float32 like those of tokens, between 0 and -12 nats."""
    return -12 * torch.rand(count, generator=torch.Generator().manual_seed(1)).square()


def by_segment(values: Tensor) -> Tensor:
    return torch.stack([part.double().sum() for part in values.split(LENGTHS.tolist())])


def squares(*tensors: Tensor) -> Tensor:
    return sum_of_squares(tensors, torch.device("cpu"))


@pytest.fixture
def on_npu() -> Iterator[None]:
    """As if an NPU's kernels were those of this device."""
    use(Kernels(object(), "cpu"))
    yield
    use(None)


@pytest.mark.parametrize("form", FORMS)
def test_the_error_of_a_segment_does_not_grow_with_its_length(form: str) -> None:
    values = log_probs(len(IDS))
    actual, expected = FORMS[form](values, IDS, LENGTHS), by_segment(values)
    assert actual.dtype == DTYPES[form]
    assert bool(((actual.double() - expected).abs() <= BOUND * expected.abs()).all())


def test_one_after_another_in_float32_would_not_do() -> None:
    values = log_probs(len(IDS))
    naive, expected = torch.zeros(len(LENGTHS)).index_add(0, IDS, values), by_segment(values)
    assert ((naive.double() - expected).abs() / expected.abs().clamp(min=1)).max() > 2 * BOUND


@pytest.mark.parametrize("form", FORMS)
def test_terms_of_both_signs_are_off_by_little_of_their_size(form: str) -> None:
    values = torch.randn(len(IDS), generator=torch.Generator().manual_seed(2))
    error = (FORMS[form](values, IDS, LENGTHS).double() - by_segment(values)).abs()
    assert bool((error <= BOUND * by_segment(values.abs())).all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_token_gets_the_gradient_of_its_segment(form: str, dtype: torch.dtype) -> None:
    values = log_probs(len(IDS)).to(dtype).requires_grad_()
    upstream = torch.randn(len(LENGTHS), generator=torch.Generator().manual_seed(3)).to(DTYPES[form])
    (gradient,) = torch.autograd.grad(FORMS[form](values, IDS, LENGTHS), values, upstream)
    assert gradient.dtype == dtype and torch.equal(gradient, upstream[IDS].to(dtype))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_segment(form: str, bad: float) -> None:
    values = log_probs(len(IDS))
    values[(IDS == 4).nonzero()[7]] = bad
    finite = FORMS[form](values, IDS, LENGTHS).isfinite()
    assert finite.tolist() == [segment != 4 for segment in range(len(LENGTHS))]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lengths", [[], [0], [0, 0], [1], [0, 1, 0]])
def test_segments_of_no_or_one_value(form: str, lengths: list[int]) -> None:
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    actual = FORMS[form](torch.full((len(ids),), 0.5), ids, torch.tensor(lengths, dtype=torch.int64))
    assert actual.tolist() == [0.5 * length for length in lengths]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 1000, 99_999])
def test_rows_are_added_up_in_both_forms(count: int) -> None:
    values = log_probs(3 * count).view(count, 3).requires_grad_()
    for form, dtype in ((total, torch.float64), (pairwise_total, torch.float32)):
        actual = form(values)
        assert actual.dtype == dtype and actual.shape == (3,)
        torch.testing.assert_close(actual.double(), values.double().sum(0), rtol=BOUND, atol=0)
        (gradient,) = torch.autograd.grad(actual.sum(), values)
        assert torch.equal(gradient, torch.ones_like(values))


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5_000_000])
def test_squares_of_many_equal_numbers_are_added_up(count: int) -> None:
    values = torch.full((count,), 1.1e-3)
    expected = count * values[:1].double().square().sum()
    torch.testing.assert_close(squares(values), expected, rtol=2 * BOUND, atol=0)


def test_squares_of_several_tensors_are_those_of_all_their_numbers() -> None:
    values = torch.randn(300, 70, generator=torch.Generator().manual_seed(4)).t()
    expected = values.double().square().sum() + 25
    torch.testing.assert_close(squares(values, torch.tensor([3.0, 4.0])), expected, rtol=BOUND, atol=0)
    assert squares(torch.tensor([1.0, float("nan")])).isnan() and squares().item() == 0


def test_an_npu_adds_in_pairs_and_keeps_float32(on_npu: None) -> None:
    values = log_probs(len(IDS))
    assert sum_dtype(values.device) == torch.float32
    assert torch.equal(segment_sum(values, IDS, LENGTHS), pairwise_segment_sum(values, IDS, LENGTHS))
    assert torch.equal(total(values), pairwise_total(values)) and squares(values).dtype == torch.float32
    torch.testing.assert_close(squares(values).double(), values.double().square().sum(), rtol=BOUND, atol=0)


def test_other_devices_add_in_float64() -> None:
    values = log_probs(len(IDS))
    assert sum_dtype(values.device) == torch.float64
    assert torch.equal(segment_sum(values, IDS, LENGTHS), plain_segment_sum(values, IDS, LENGTHS))


@pytest.mark.parametrize("form", [*FORMS.values(), total, pairwise_total, squares])
def test_the_host_reads_nothing(form: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sync(*_: object) -> None:
        raise AssertionError("a sum was read by the host")

    for reader in ("item", "tolist", "cpu", "nonzero", "__float__", "__int__", "__bool__", "__index__"):
        monkeypatch.setattr(torch.Tensor, reader, no_sync)
    values = log_probs(len(IDS)).requires_grad_()
    actual = form(values, IDS, LENGTHS) if form in FORMS.values() else form(values)
    if actual.requires_grad:
        actual.sum().backward()
