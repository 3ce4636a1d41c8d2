"""Pair losses: closed forms and gradients in float64, identities, refusals. Recorded numbers are in test_recorded."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mindspeed_dpo.algorithms.losses import PAIR_LOSSES, hinge_loss, ipo_loss, pair_loss, sigmoid_loss
from mindspeed_dpo.algorithms.losses.ratios import implicit_rewards

SMOOTHING = 0.1
LENGTHS = torch.tensor([[10, 20], [7, 3], [1, 5], [40, 2]])


def some_logps(seed: int = 0, pairs: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -30 + 8 * torch.randn(pairs, 2, dtype=torch.float64, generator=generator)


def value(name: str, policy: Tensor, ref: Tensor, lengths: Tensor = LENGTHS, beta: float = 0.1) -> Tensor:
    loss = pair_loss(name)
    extra: dict = {"lengths": lengths} if "lengths" in loss.reads else {}
    extra |= {"label_smoothing": SMOOTHING} if loss.needs else {}
    return loss.function(policy, ref, beta=beta, **extra)


@given(st.floats(-200, 200), st.floats(0.01, 2), st.floats(0, 0.49))
def test_sigmoid_equals_its_formula(margin: float, beta: float, smoothing: float) -> None:
    policy = torch.tensor([[margin, 0.0]], dtype=torch.float64)
    z = beta * margin
    softplus = lambda x: max(x, 0) + math.log1p(math.exp(-abs(x)))  # noqa: E731
    expected = (1 - smoothing) * softplus(-z) + smoothing * softplus(z)
    loss = sigmoid_loss(policy, torch.zeros_like(policy), beta=beta, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(st.floats(-200, 200), st.floats(0.01, 2))
def test_hinge_equals_its_formula(margin: float, beta: float) -> None:
    policy = torch.tensor([[0.0, -margin]], dtype=torch.float64)
    loss = hinge_loss(policy, torch.zeros_like(policy), beta=beta)
    assert loss.item() == pytest.approx(max(0.0, 1 - beta * margin), rel=1e-12, abs=1e-12)


def test_ipo_divides_each_log_ratio_by_its_own_length() -> None:
    policy, ref = torch.tensor([[-20.0, -9.0]]), torch.tensor([[-25.0, -3.0]])
    loss = ipo_loss(policy, ref, torch.tensor([[10, 2]]), beta=0.5)
    assert loss.item() == pytest.approx((5 / 10 + 6 / 2 - 1) ** 2)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.7])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", lambda beta: math.log(2)),
        ("hinge", lambda beta: 1.0),
        ("ipo", lambda beta: 1 / (4 * beta**2)),
        ("sigmoid_norm", lambda beta: math.log(2)),
        ("robust", lambda beta: math.log(2)),
        ("exo_pair", lambda beta: -math.log(2) - math.log(SMOOTHING * (1 - SMOOTHING)) / 2),
        ("nca_pair", lambda beta: 2 * math.log(2)),
        ("bco_pair", lambda beta: 2 * math.log(2)),
        ("sppo_hard", lambda beta: 1 / (2 * beta**2)),
        ("apo_zero", lambda beta: 1.0),
        ("apo_down", lambda beta: 1.0),
    ],
)
def test_the_loss_where_policy_equals_reference_is_known(name: str, expected, beta: float) -> None:
    logps = some_logps().float()
    assert torch.allclose(value(name, logps, logps, beta=beta), torch.tensor(expected(beta)), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothed_sigmoid_starts_at_ln_2_too(smoothing: float) -> None:
    logps = some_logps()
    loss = sigmoid_loss(logps, logps, beta=0.3, label_smoothing=smoothing)
    assert torch.allclose(loss, torch.full_like(loss, math.log(2)), rtol=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    policy, ref = some_logps(1).requires_grad_(), some_logps(2)
    assert torch.autograd.gradcheck(lambda logps: value(name, logps, ref), (policy,))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", (-0.05, 0.05)),
        ("hinge", (-0.1, 0.1)),
        ("ipo", (-1.0, 0.5)),
        ("sigmoid_norm", (-0.005, 0.0025)),
        ("robust", (-0.05, 0.05)),
        ("exo_pair", (-0.025 * math.log(9), 0.025 * math.log(9))),
        ("nca_pair", (-0.025, 0.025)),
        ("bco_pair", (-0.05, 0.05)),
        ("sppo_hard", (-10.0, 10.0)),
        ("apo_zero", (-0.025, 0.025)),
        ("apo_down", (0.0, 0.025)),
    ],
)
def test_the_first_gradient_has_its_known_value(name: str, expected: tuple[float, float]) -> None:
    policy = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    value(name, policy, torch.zeros(1, 2, dtype=torch.float64), LENGTHS[:1]).sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_the_smoothed_gradient_has_its_known_value() -> None:
    policy = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    sigmoid_loss(policy, torch.zeros_like(policy), beta=0.1, label_smoothing=0.1).sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx([-0.04, 0.04], rel=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_permuting_pairs_permutes_their_losses(name: str) -> None:
    policy, ref, order = some_logps(1), some_logps(2), torch.tensor([2, 0, 3, 1])
    permuted = value(name, policy[order], ref[order], LENGTHS[order])
    assert torch.equal(permuted, value(name, policy, ref)[order])


def test_robust_without_flips_is_the_sigmoid_loss() -> None:
    policy, ref = some_logps(1), some_logps(2)
    assert torch.equal(value("robust", policy, ref), value("sigmoid", policy, ref))


def test_sigmoid_norm_of_lengths_one_is_the_sigmoid_loss() -> None:
    policy, ref = some_logps(1), some_logps(2)
    assert torch.equal(value("sigmoid_norm", policy, ref, torch.ones(4, 2)), value("sigmoid", policy, ref))


def test_swapping_the_pair_changes_the_sigmoid_loss_by_the_margin() -> None:
    policy, ref = some_logps(1), some_logps(2)
    ratios = policy - ref
    z = 0.1 * (ratios[:, 0] - ratios[:, 1])
    there, back = sigmoid_loss(policy, ref, beta=0.1), sigmoid_loss(policy.flip(1), ref.flip(1), beta=0.1)
    assert torch.allclose(there - back, -z, rtol=1e-12)


def test_a_constant_on_both_log_ratios_leaves_margin_losses_alone() -> None:
    policy, ref = some_logps(1), some_logps(2)
    for name in ("sigmoid", "hinge"):
        assert torch.allclose(value(name, policy + 3, ref), value(name, policy, ref), rtol=1e-12)
    ones = torch.ones_like(LENGTHS)
    assert torch.allclose(value("ipo", policy + 3, ref, ones), value("ipo", policy, ref, ones), rtol=1e-12)
    assert not torch.allclose(value("ipo", policy + 3, ref), value("ipo", policy, ref))


def test_ipo_of_equal_lengths_is_the_form_with_sums_at_another_beta() -> None:
    policy, ref, n = some_logps(1), some_logps(2), 6
    normalised = ipo_loss(policy, ref, torch.full((4, 2), n), beta=0.1)
    with_sums = ipo_loss(policy, ref, torch.ones(4, 2), beta=0.1 / n)
    assert torch.allclose(n**2 * normalised, with_sums, rtol=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_first_step_raises_chosen_and_lowers_rejected(name: str) -> None:
    ref = some_logps()
    policy = ref.clone().requires_grad_()
    value(name, policy, ref).sum().backward()
    assert policy.grad is not None
    # apo_down means to lower both; where policy equals reference its chosen gradient is exactly 0.
    assert (policy.grad[:, 0] == 0).all() if name == "apo_down" else (policy.grad[:, 0] < 0).all()
    assert (policy.grad[:, 1] > 0).all()


def test_extreme_margins_stay_finite() -> None:
    policy = torch.tensor([[-1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    loss = sigmoid_loss(policy, torch.zeros(2, 2), beta=0.5)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([5000.0, 0.0]) and policy.grad is not None and policy.grad.isfinite().all()


def test_an_empty_response_counts_as_one_token() -> None:
    logps = torch.zeros(1, 2)
    assert ipo_loss(logps, logps, torch.tensor([[0, 4]]), beta=0.1).item() == pytest.approx(25.0)


def test_rewards_are_beta_times_the_log_ratio() -> None:
    policy, ref = torch.tensor([[-10.0, -12.0]]), torch.tensor([[-11.0, -9.0]])
    assert torch.equal(implicit_rewards(policy, ref, beta=0.5), torch.tensor([[0.5, -1.5]]))


@pytest.mark.parametrize(
    ("policy", "ref", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"policy_logps must be \[P, 2\]"),
        (torch.zeros(3, 4), torch.zeros(3, 4), r"policy_logps must be \[P, 2\]"),
        (torch.zeros(3, 2), torch.zeros(2, 2), "same shape"),
        (torch.zeros(3, 2).bfloat16(), torch.zeros(3, 2), "float32"),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(policy: Tensor, ref: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigmoid_loss(policy, ref, beta=0.1)


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths must be"):
        ipo_loss(torch.zeros(3, 2), torch.zeros(3, 2), torch.ones(3), beta=0.1)


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean sigmoid"):
        pair_loss("sigmiod")
