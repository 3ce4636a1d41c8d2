"""Norm, gate and rotation against their formulas in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mindspeed_dpo.device.ops import rms_norm, rotate, swiglu

pytestmark = pytest.mark.numerics

Operator = Callable[[Tensor], Tensor]
HALF_STEP_OF_BFLOAT16 = 2.0**-8


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def norm_by_formula(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight.double()


@pytest.mark.parametrize("shape", [(7,), (5, 8), (3, 1, 16)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_divides_by_the_root_of_mean_square_plus_epsilon(shape: tuple[int, ...], scale: float) -> None:
    x, weight = random(*shape, dtype=torch.float32) * scale, random(shape[-1], dtype=torch.float32)
    actual = rms_norm(x, weight, 1e-5)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), norm_by_formula(x, weight, 1e-5), rtol=2e-6, atol=1e-7)


def test_rms_norm_of_bfloat16_is_computed_in_float32_and_rounded_once() -> None:
    x = random(64, 300, dtype=torch.bfloat16)
    actual = rms_norm(x, torch.ones(300, dtype=torch.bfloat16), 1e-6)
    assert actual.dtype == torch.bfloat16
    expected = norm_by_formula(x, torch.ones(300), 1e-6)
    assert bool(((actual.double() - expected).abs() <= 1.001 * HALF_STEP_OF_BFLOAT16 * expected.abs()).all())


def test_the_gradient_of_rms_norm_follows_the_formula() -> None:
    x, weight = random(4, 9, dtype=torch.float32).requires_grad_(), random(9, dtype=torch.float32).requires_grad_()
    upstream = random(4, 9)
    ours = torch.autograd.grad(rms_norm(x, weight, 1e-3), (x, weight), upstream.float())
    theirs = torch.autograd.grad(norm_by_formula(x, weight, 1e-3), (x, weight), upstream)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_swiglu_gates_the_second_half_with_the_first() -> None:
    x = random(5, 2, 12).requires_grad_()
    gate, up = x[..., :6], x[..., 6:]
    expected = gate / (1 + (-gate).exp()) * up
    torch.testing.assert_close(swiglu(x), expected)
    upstream = random(5, 2, 6)
    (ours,), (theirs,) = (torch.autograd.grad(out, x, upstream) for out in (swiglu(x), expected))
    torch.testing.assert_close(ours, theirs)


def angles(length: int, width: int) -> Tensor:
    """[length, width / 2] float64, another one for each pair."""
    return torch.arange(length, dtype=torch.float64)[:, None] * 10.0 ** -torch.arange(width // 2, dtype=torch.float64)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    both = torch.cat((turns, turns), -1).float()
    return rotate(x, both.cos(), both.sin())


def test_rotate_turns_each_pair_of_the_two_halves_in_its_plane() -> None:
    x, turns = random(6, 3, 8), angles(6, 8)
    as_complex = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(turns), turns)[:, None]
    actual = turned(x.float(), turns)
    assert actual.dtype == torch.float32
    expected = torch.cat((as_complex.real, as_complex.imag), -1)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-6)


def test_the_gradient_of_a_rotation_is_turned_back() -> None:
    x, turns, upstream = random(6, 3, 8).requires_grad_(), angles(6, 8), random(6, 3, 8)
    first, second = x[..., :4], x[..., 4:]
    cos, sin = turns.cos()[:, None], turns.sin()[:, None]
    by_formula = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    (theirs,) = torch.autograd.grad(by_formula, x, upstream)
    narrow = x.detach().float().requires_grad_()
    (ours,) = torch.autograd.grad(turned(narrow, turns), narrow, upstream.float())
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "operator",
    [lambda x: turned(x, angles(6, 8)), lambda x: rms_norm(x, torch.ones(8), 1e-6), swiglu],
    ids=["rotate", "rms_norm", "swiglu"],
)
def test_parts_of_a_larger_tensor_and_gradients_that_are_such_parts_are_as_good(operator: Operator) -> None:
    # Queries, keys and values are parts of one projection.
    complete = random(6, 4, 8, dtype=torch.float32).requires_grad_()
    copied = complete.detach()[:, 1:3].contiguous().requires_grad_()
    out = operator(complete[:, 1:3])
    upstream = random(*out.shape, 2, dtype=torch.float32)[..., 0]
    (actual,) = torch.autograd.grad(out, complete, upstream)
    (expected,) = torch.autograd.grad(operator(copied), copied, upstream.contiguous())
    torch.testing.assert_close(actual[:, 1:3], expected)
    assert not actual[:, 0].any() and not actual[:, 3].any()


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_scores_of_rotated_heads_depend_on_the_distance_alone(query: int, key: int, shift: int) -> None:
    vectors = random(2, 1, 8, dtype=torch.float32)

    def score(first: int, second: int) -> float:
        a, b = turned(vectors, angles(41, 8)[[first, second]])
        return float((a * b).sum())

    assert score(query, key) == pytest.approx(score(query + shift, key + shift), abs=1e-5)


def test_rotate_keeps_the_dtype_and_rounds_once() -> None:
    x, turns = random(6, 2, 8, dtype=torch.bfloat16), angles(6, 8)
    actual = turned(x, turns)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, turned(x.float(), turns).to(torch.bfloat16))
