"""Pair losses: closed forms and gradients in float64, identities, refusals. Recorded numbers are in test_recorded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mindspeed_dpo.algorithms.cross_pair_values import StepValues, cross_pair_values
from mindspeed_dpo.algorithms.losses.f_divergence import divergence_scores
from mindspeed_dpo.algorithms.losses.pair_terms import PairTerms, log_ratios
from mindspeed_dpo.algorithms.objective import PAIR_LOSSES
from mindspeed_dpo.config.settings.loss import CROSS_PAIR_LOSSES, SMOOTHED_LOSSES, LossConfig

pytestmark = pytest.mark.numerics

SMOOTHING = 0.1
LENGTHS = torch.tensor([[10, 20], [7, 3], [1, 5], [40, 2]])
TARGETS = torch.tensor([0.7, -0.4, 0.0, 2.5, 1.25, -3.0], dtype=torch.float64)
"""Of the losses that have one; the first is that of tests with a single pair."""


def some_logps(seed: int = 0, pairs: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return -30 + 8 * torch.randn(pairs, 2, dtype=torch.float64, generator=generator)


def value(
    name: str, policy: Tensor, ref: Tensor, lengths: Tensor = LENGTHS, *, beta: float = 0.1, **settings: Any
) -> Tensor:
    """The loss of some pairs that are a full step, with the default settings."""
    values = StepValues(lengths.to(policy.dtype), policy.detach(), ref)
    across = cross_pair_values(values, (name,), settings.pop("group", None))
    targets = settings.pop("targets", TARGETS[: len(policy)].to(policy.dtype))
    terms = PairTerms(
        logps=policy,
        ratios=policy - ref,
        scores=policy - ref,
        lengths=lengths,
        nll=-policy[:, 0] * across.nll_scale,
        beta=beta,
        partners=across.partners,
        targets=targets,
    )
    smoothing = {"dpo_label_smoothing": SMOOTHING} if name == "exo_pair" else {}
    return PAIR_LOSSES[name](terms, LossConfig(**{"ipo_normalize": True, **smoothing, **settings}))


def of_ratios(name: str, ratios: Tensor, lengths: Tensor = LENGTHS, **settings: Any) -> Tensor:
    """The loss of pairs by their log-ratios alone."""
    return value(name, ratios, torch.zeros_like(ratios), lengths, **settings)


def ls(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def independent(name: str, lp: Tensor, rp: Tensor, n: Tensor, beta: float, e: float, tau: float) -> Tensor:
    """Every loss a second time, written plainly from its paper; all pairs are one step."""
    r = lp - rp
    r_w, r_l = r.unbind(1)
    z, a, t = beta * (r_w - r_l), lp / n, 1 / (2 * beta)
    nll = -lp[:, 0] * len(lp) / n[:, 0].sum()

    def smoothed(x: Tensor) -> Tensor:
        return -(1 - e) * ls(x) - e * ls(-x)

    match name:
        case "sigmoid":
            return smoothed(z)
        case "hinge":
            return (1 - z).clamp(min=0)
        case "ipo":
            return (r_w / n[:, 0] - r_l / n[:, 1] - t) ** 2
        case "sigmoid_norm":
            return -ls(beta * (r_w / n[:, 0] - r_l / n[:, 1]))
        case "robust":
            return (-(1 - e) * ls(z) + e * ls(-z)) / (1 - 2 * e)
        case "exo_pair":
            return z.sigmoid() * (ls(z) - math.log(1 - e)) + (-z).sigmoid() * (ls(-z) - math.log(e))
        case "nca_pair":
            return -ls(beta * r_w) - (ls(-beta * r_w) + ls(-beta * r_l)) / 2
        case "bco_pair":
            return -ls(beta * r_w) - ls(-beta * r_l)
        case "sppo_hard":
            return (r_w - t) ** 2 + (r_l + t) ** 2
        case "aot":
            return smoothed(beta * ((lp[:, 0] - lp[:, 1]).sort().values - (rp[:, 0] - rp[:, 1]).sort().values))
        case "aot_unpaired":
            return smoothed(beta * (r_w.sort().values - r_l.sort().values))
        case "apo_zero":
            return 1 - (beta * r_w).sigmoid() + (beta * r_l).sigmoid()
        case "apo_down":
            return (beta * r_w).sigmoid() + 1 - z.sigmoid()
        case "discopop":
            m = (z / tau).sigmoid()
            return -(1 - m) * ls(z) + m * torch.exp(-z)
        case "rpo_sq":
            return (z - TARGETS) ** 2
        case "rpo_bwd_kl" | "rpo_fwd_kl":
            p, q = (1 / (1 + torch.exp(-x)) for x in ((TARGETS, z) if name == "rpo_bwd_kl" else (z, TARGETS)))
            return p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))
        case "sft":
            return nll
        case "simpo":
            return smoothed(beta * (a[:, 0] - a[:, 1] - 1.4))
        case "cpo":
            return smoothed(beta * (lp[:, 0] - lp[:, 1])) + 1.0 * nll
        case "orpo":
            odds = a - torch.log(1 - torch.exp(a))
            return nll - beta * ls(odds[:, 0] - odds[:, 1])
    raise AssertionError(name)


@pytest.mark.parametrize("name", PAIR_LOSSES)
@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_losses_equal_their_papers(name: str, beta: float) -> None:
    policy, ref = some_logps(1, 6).requires_grad_(), some_logps(2, 6)
    lengths = torch.tensor([[10, 20], [7, 3], [1, 5], [40, 2], [9, 9], [12, 30]])
    smoothing = SMOOTHING if name in SMOOTHED_LOSSES else 0.0
    losses = value(name, policy, ref, lengths, beta=beta, dpo_label_smoothing=smoothing, discopop_tau=0.3)
    expected = independent(name, policy, ref, lengths.double(), beta, smoothing, 0.3)
    # aot gives each pair the loss of its rank, so only the sum is alike.
    torch.testing.assert_close(losses.sum(), expected.sum(), rtol=1e-12, atol=1e-12)
    if name not in CROSS_PAIR_LOSSES:
        torch.testing.assert_close(losses, expected, rtol=1e-12, atol=1e-12)
    gradient, expected_gradient = (torch.autograd.grad(x.sum(), policy)[0] for x in (losses, expected))
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CROSS_PAIR_LOSSES)
def test_matching_within_groups_is_matching_group_by_group(name: str) -> None:
    policy, ref, lengths = some_logps(3, 6), some_logps(4, 6), torch.ones(6, 2)
    grouped = value(name, policy, ref, lengths, group=4)
    apart = [value(name, policy[part], ref[part], lengths[part]) for part in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(grouped, torch.cat(apart))
    assert not torch.allclose(grouped.sum(), value(name, policy, ref, lengths).sum())


def test_likelihoods_average_over_the_tokens_of_their_group() -> None:
    policy, ref = some_logps(1), some_logps(2)
    nll, n = -policy[:, 0], LENGTHS[:, 0]
    assert value("sft", policy, ref).mean().item() == pytest.approx((nll.sum() / n.sum()).item())
    by_two = [nll[part].sum() / n[part].sum() for part in (slice(0, 2), slice(2, 4))]
    assert value("sft", policy, ref, group=2).mean().item() == pytest.approx(float(sum(by_two)) / 2)


def test_a_certain_response_leaves_orpo_finite() -> None:
    policy = torch.tensor([[0.0, -5.0], [-1e-30, -1e4]], requires_grad=True)
    loss = value("orpo", policy, torch.zeros(2, 2), torch.ones(2, 2))
    loss.sum().backward()
    assert loss.isfinite().all() and policy.grad is not None and policy.grad.isfinite().all()


@given(st.floats(-200, 200), st.floats(0.01, 2), st.floats(0, 0.49))
def test_sigmoid_equals_its_formula(margin: float, beta: float, smoothing: float) -> None:
    z = beta * margin
    softplus = lambda x: max(x, 0) + math.log1p(math.exp(-abs(x)))  # noqa: E731
    expected = (1 - smoothing) * softplus(-z) + smoothing * softplus(z)
    ratios = torch.tensor([[margin, 0.0]], dtype=torch.float64)
    loss = of_ratios("sigmoid", ratios, LENGTHS[:1], beta=beta, dpo_label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@given(st.floats(-5, 5), st.floats(0, 3))
def test_divergences_have_their_limits(ratio: float, alpha: float) -> None:
    r = torch.tensor([[ratio, 0.0]], dtype=torch.float64)
    assert torch.equal(divergence_scores(r, "reverse_kl", alpha), r)
    torch.testing.assert_close(
        divergence_scores(r, "alpha_divergence", 0.0), divergence_scores(r, "forward_kl", 0.0), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(divergence_scores(r, "alpha_divergence", 1 - 1e-5), r, rtol=1e-3, atol=1e-3)
    js = divergence_scores(r, "js_divergence", alpha)
    assert abs(js[0, 0] - js[0, 1]) <= abs(r[0, 0]) + 1e-12
    assert js[0, 0].item() == pytest.approx(math.log(2) - math.log1p(math.exp(-ratio)), abs=1e-12)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


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
        ("aot", lambda beta: math.log(2)),
        ("aot_unpaired", lambda beta: math.log(2)),
        ("discopop", lambda beta: (math.log(2) + 1) / 2),
        ("rpo_sq", lambda beta: 0.49),
        ("rpo_bwd_kl", lambda beta: math.log(2) - entropy(sigmoid(0.7))),
        ("rpo_fwd_kl", lambda beta: -math.log(2) - math.log(sigmoid(0.7) * sigmoid(-0.7)) / 2),
    ],
)
def test_the_loss_where_policy_equals_reference_has_a_closed_form(name: str, expected, beta: float) -> None:
    # One pair: those that compare pairs with others start so only where all margins are equal.
    logps = some_logps().float()[:1]
    assert torch.allclose(value(name, logps, logps, LENGTHS[:1], beta=beta), torch.tensor(expected(beta)), rtol=1e-6)


def test_losses_without_a_reference_start_where_both_responses_are_equally_likely() -> None:
    logps, lengths = torch.tensor([[-20.0, -20.0]]), torch.tensor([[10, 10]])
    ref = torch.zeros(1, 2)
    assert value("simpo", logps, ref, lengths, beta=2.0).item() == pytest.approx(math.log1p(math.exp(2.0 * 1.4)))
    assert value("cpo", logps, ref, lengths, cpo_alpha=0.5).item() == pytest.approx(math.log(2) + 0.5 * 2)
    assert value("orpo", logps, ref, lengths, beta=0.3).item() == pytest.approx(2 + 0.3 * math.log(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_smoothed_sigmoid_starts_at_ln_2_too(smoothing: float) -> None:
    logps = some_logps()
    loss = of_ratios("sigmoid", logps - logps, beta=0.3, dpo_label_smoothing=smoothing)
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
        ("aot", (-0.05, 0.05)),
        ("aot_unpaired", (-0.05, 0.05)),
        ("discopop", (0.0784, -0.0784)),
        ("rpo_sq", (-0.14, 0.14)),
        ("rpo_bwd_kl", (0.1 * (0.5 - sigmoid(0.7)), 0.1 * (sigmoid(0.7) - 0.5))),
        ("rpo_fwd_kl", (-0.0175, 0.0175)),
    ],
)
def test_the_first_gradient_has_its_exact_value(name: str, expected: tuple[float, float]) -> None:
    policy = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    value(name, policy, torch.zeros(1, 2, dtype=torch.float64), LENGTHS[:1]).sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx(expected, rel=1e-3 if name == "discopop" else 1e-12)


def test_the_smoothed_gradient_has_its_exact_value() -> None:
    policy = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    of_ratios("sigmoid", policy, LENGTHS[:1], dpo_label_smoothing=0.1).sum().backward()
    assert policy.grad is not None
    assert policy.grad[0].tolist() == pytest.approx([-0.04, 0.04], rel=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_permuting_pairs_permutes_their_losses(name: str) -> None:
    policy, ref, order = some_logps(1), some_logps(2), torch.tensor([2, 0, 3, 1])
    permuted = value(name, policy[order], ref[order], LENGTHS[order], targets=TARGETS[:4][order])
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
    there, back = of_ratios("sigmoid", ratios), of_ratios("sigmoid", ratios.flip(1))
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
    normalised = of_ratios("ipo", policy - ref, torch.full((4, 2), n))
    with_sums = of_ratios("ipo", policy - ref, torch.ones(4, 2), beta=0.1 / n)
    assert torch.allclose(n**2 * normalised, with_sums, rtol=1e-12)


@pytest.mark.parametrize("name", ["rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl"])
def test_reward_aware_losses_vanish_exactly_where_the_margin_is_its_target(name: str) -> None:
    beta, targets = 0.25, torch.tensor([0.0, 1.5, -2.0, 40.0], dtype=torch.float64)
    ref = some_logps()
    policy = (ref + torch.stack([targets / beta, torch.zeros(4)], 1)).requires_grad_()
    loss = value(name, policy, ref, beta=beta, targets=targets)
    loss.sum().backward()
    assert policy.grad is not None
    torch.testing.assert_close(loss.detach(), torch.zeros(4, dtype=torch.float64), atol=1e-13, rtol=0)
    torch.testing.assert_close(policy.grad, torch.zeros(4, 2, dtype=torch.float64), atol=1e-13, rtol=0)
    # Of a pair that is already further apart than it should be, the chosen response is pushed down.
    beyond = (ref + torch.tensor([20.0, 0.0])).requires_grad_()
    value(name, beyond, ref, beta=beta, targets=torch.full((4,), 2.0, dtype=torch.float64)).sum().backward()
    assert beyond.grad is not None and (beyond.grad[:, 0] > 0).all() and (beyond.grad[:, 1] < 0).all()


@pytest.mark.parametrize("name", ["rpo_bwd_kl", "rpo_fwd_kl"])
def test_divergences_of_extreme_targets_stay_finite(name: str) -> None:
    policy = torch.tensor([[-1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    loss = value(name, policy, torch.zeros(2, 2), LENGTHS[:2], beta=0.5, targets=torch.tensor([300.0, 300.0]))
    loss.sum().backward()
    assert loss.isfinite().all() and policy.grad is not None and policy.grad.isfinite().all()


def test_a_target_far_above_every_margin_leaves_the_gradient_of_the_sigmoid_loss() -> None:
    policy, ref = some_logps(1).requires_grad_(), some_logps(2)
    far = torch.full((4,), 60.0, dtype=torch.float64)
    losses = value("rpo_bwd_kl", policy, ref, targets=far), value("sigmoid", policy, ref)
    gradients = [torch.autograd.grad(loss.sum(), policy)[0] for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)


def test_a_reward_aware_loss_without_targets_is_refused() -> None:
    logps = some_logps()
    with pytest.raises(ValueError, match="need a target for each pair, which margin_column"):
        value("rpo_sq", logps, logps, targets=None)


@pytest.mark.parametrize("name", sorted(set(PAIR_LOSSES) - {"discopop", "sft", "aot", "aot_unpaired"}))
def test_the_first_step_raises_chosen_and_lowers_rejected(name: str) -> None:
    ref = some_logps()
    policy = ref.clone().requires_grad_()
    value(name, policy, ref, targets=torch.ones(4, dtype=torch.float64)).sum().backward()
    assert policy.grad is not None
    # apo_down means to lower both; where policy equals reference its chosen gradient is exactly 0.
    assert (policy.grad[:, 0] == 0).all() if name == "apo_down" else (policy.grad[:, 0] < 0).all()
    assert (policy.grad[:, 1] > 0).all()


def test_extreme_margins_stay_finite() -> None:
    policy = torch.tensor([[-1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    loss = of_ratios("sigmoid", policy, LENGTHS[:2], beta=0.5)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([5000.0, 0.0]) and policy.grad is not None and policy.grad.isfinite().all()


def test_an_empty_response_counts_as_one_token() -> None:
    logps = torch.zeros(1, 2)
    assert of_ratios("ipo", logps, torch.tensor([[0, 4]])).item() == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("policy", "ref", "message"),
    [
        (torch.zeros(3), torch.zeros(3), r"policy_logps must be \[P, 2\]"),
        (torch.zeros(3, 4), torch.zeros(3, 4), r"policy_logps must be \[P, 2\]"),
        (torch.zeros(3, 2), torch.zeros(2, 2), "same shape"),
        (torch.zeros(3, 2).bfloat16(), torch.zeros(3, 2), "float32"),
    ],
)
def test_invalid_shapes_and_dtypes_are_refused(policy: Tensor, ref: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_ratios(policy, ref)


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths must be"):
        logps = torch.zeros(3, 2)
        terms = PairTerms(logps, logps, logps, lengths=torch.ones(3), nll=logps[:, 0], beta=0.1)
        PAIR_LOSSES["ipo"](terms, LossConfig(ipo_normalize=True))


@pytest.mark.parametrize("name", ["logps", "ratios", "scores"])
@pytest.mark.parametrize("values", [torch.zeros(3), torch.zeros(3, 2).bfloat16()], ids=["shape", "dtype"])
def test_terms_of_another_shape_or_dtype_are_refused(name: str, values: Tensor) -> None:
    tensors = {**dict.fromkeys(("logps", "ratios", "scores"), torch.zeros(3, 2)), name: values}
    with pytest.raises(ValueError, match=f"{name} must be"):
        PairTerms(**tensors, lengths=torch.ones(3, 2), nll=torch.zeros(3), beta=0.1)
